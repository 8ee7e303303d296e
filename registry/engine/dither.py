"""Rounding at random on a grid that stays as it is, so that updates much smaller than a step survive on average.

The base's numbers lie on the grid: code * scale + bias.  A change D moves a code by D / scale steps, a fraction of
one as a rule; the code moves to the next step with a probability equal to the fraction, so that the mean of what is
written is what was meant (stochastic rounding, as in Gupta et al., arXiv:1502.02551, but on the base's own grid).

Thresholds come from a counter-based generator: a number depends on the seed, the module, the row and the column, and on
nothing else, so that blocks can be computed in any order, on any platform, with the same bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .arithmetic import F16, F32, Array, Format

_STEP = np.uint32(0x9E3779B9)
_FIRST, _SECOND = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_UNIT = np.float32(2.0**-24)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers in [0, 1), one for each element of a module's weight.

    Attributes:
        seed: 32 bits, of the module.
    """

    seed: int

    @classmethod
    def of(cls, seed: int, path: str) -> Thresholds:
        """Return the thresholds of a module.

        Args:
            seed: of the whole fuse, any whole number.
            path: of the module.
        """
        digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
        return cls(int.from_bytes(digest[:4], "little"))

    def fill(self, first: int, rows: int, out: Array, scratch: Array) -> None:
        """Write the thresholds of whole rows to `out`, in groups (`layouts`).

        Args:
            first: number of the first row.
            rows: how many.
            out: float32 (group size, groups).
            scratch: uint32, like `out`.
        """
        size, groups = out.shape
        per_row = groups // rows
        seeds = np.repeat(mixed(np.arange(first, first + rows), self.seed), per_row)
        columns = np.tile(np.arange(per_row, dtype=np.uint32) * np.uint32(size), rows)
        bits = out.view(np.uint32)
        np.add(np.arange(size, dtype=np.uint32)[:, None], columns, out=bits)
        np.multiply(bits, _STEP, out=bits)
        np.bitwise_xor(bits, seeds, out=bits)
        _mix(bits, scratch)
        np.right_shift(bits, 8, out=bits)
        np.copyto(scratch.view(np.int32), bits.view(np.int32))
        np.multiply(scratch.view(np.int32), _UNIT, out=out, dtype=np.float32, casting="unsafe")

    def of_groups(self, first: int, shape: tuple[int, int]) -> Array:
        """Return thresholds of the groups of whole rows, float32 (rows, groups), one for each.

        Args:
            first: number of the first row.
            shape: rows, and groups of a row.
        """
        numbers = (first + np.arange(shape[0], dtype=np.int64))[:, None] * shape[1] + np.arange(shape[1])
        bits = mixed(numbers.reshape(-1), self.seed).reshape(shape)
        found: Array = (bits >> np.uint32(8)).astype(np.float32) * _UNIT
        return found


def round_at_random(values: Array, form: Format, chance: Array) -> Array:
    """Round to numbers of a format, up where the way from the lower neighbour is more than the threshold.

    Args:
        values: float32.
        form: the format.
        chance: float32 in [0, 1), like `values`.

    Returns:
        float32 that the format can hold; what is beyond it is left to whoever stores it.
    """
    if form is F32:
        return values
    finest = np.float32(2.0**-24 if form is F16 else 2.0**-133)
    steps = np.maximum(np.spacing(np.abs(values)) * np.float32(8192 if form is F16 else 65536), finest)
    places = values / steps
    lower = np.floor(places)
    found: Array = (lower + (chance < places - lower)).astype(np.float32) * steps
    return found


def round_steps(steps: Array, thresholds: Array, scratch: Array) -> None:
    """Round a number of steps to a whole one, up where the fraction exceeds the threshold; in place.

    Args:
        steps: float32, by how much codes are to move.
        thresholds: float32 in [0, 1), like `steps`; overwritten.
        scratch: like `steps`.
    """
    np.floor(steps, out=scratch)
    np.subtract(steps, scratch, out=steps)
    np.less(thresholds, steps, out=thresholds, casting="unsafe")
    np.add(scratch, thresholds, out=steps)


def mixed(numbers: Array, seed: int) -> Array:
    """Return 32 random bits for each number, a permutation of the numbers for each seed: uint32."""
    bits = numbers.astype(np.uint32) * _STEP + np.uint32(seed)
    _mix(bits, np.empty_like(bits))
    return bits


def _mix(bits: Array, scratch: Array) -> None:
    """Mix 32 bits: the finaliser of MurmurHash3 (Appleby, public domain)."""
    for shift, factor in ((16, _FIRST), (13, _SECOND)):
        np.right_shift(bits, shift, out=scratch)
        np.bitwise_xor(bits, scratch, out=bits)
        np.multiply(bits, factor, out=bits)
    np.right_shift(bits, 16, out=scratch)
    np.bitwise_xor(bits, scratch, out=bits)
