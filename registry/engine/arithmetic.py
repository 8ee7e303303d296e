"""Exact arithmetic on bfloat16, float16 and float32 in NumPy, bit for bit that of MLX on a CPU, on every platform.

Every step is one IEEE 754 binary32 operation in a fixed order: no BLAS, no fused multiply-add.  Numbers are stored as in the file
(BF16 and F16 as uint16) and computed as float32.

DoRA: mlx-lm adds the update in the weight's format, W1, and writes `(m / norm(W1))[:, None] * W1`.  MLX 0.32.4 rounds each square
to that format; a row's sum runs in float32, in order, and is rounded once, as is its root.  A row of zeros gives NaN, as in MLX.

Rounding at random (`dither`): a change D moves a code by D / scale steps, to the next with a probability equal to the fraction
(Gupta et al., arXiv:1502.02551).  A threshold depends on the seed, the module, the row and the column alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_F32 = np.float32
_FEW = 8
_GAP = 16


class NotFiniteError(ValueError):
    """A module would have to hold a NaN or an infinity, or numbers that its format has no scale for."""


@dataclass(frozen=True, slots=True)
class Format:
    """A number format of weights; `size` is bytes per number."""

    name: str
    size: int

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy dtype of stored numbers."""
        return np.dtype(np.float32 if self.size == 4 else np.uint16)


BF16, F16, F32 = Format("BF16", 2), Format("F16", 2), Format("F32", 4)
FORMATS = {form.name: form for form in (BF16, F16, F32)}


def decode(stored: Array, form: Format) -> Array:
    """Return stored numbers as new float32 numbers, exactly, infinities and NaN included."""
    if form is F32:
        return stored.astype(_F32)
    if form is F16:
        return stored.view(np.float16).astype(_F32)
    return (stored.astype(np.uint32) << np.uint32(16)).view(_F32)


def encode(values: Array, form: Format) -> Array:
    """Return float32 numbers as new stored numbers: to nearest, ties to even; NaN becomes the one that MLX writes."""
    if form is F32:
        return values.astype(_F32)
    wrong = np.isnan(values)
    bits = np.ascontiguousarray(values, dtype=_F32).view(np.uint32)
    if form is F16:
        stored = values.astype(np.float16).view(np.uint16)
        canonical = ((bits >> np.uint32(16)) & np.uint32(0x8000)).astype(np.uint16) | np.uint16(0x7D00)
    else:
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        stored = ((bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.uint16)
        canonical = np.full_like(stored, 0x7FC0)
    return np.where(wrong, canonical, stored)


def rounded(values: Array, form: Format) -> Array:
    """Return float32 numbers as new ones of a format: to nearest, ties to even."""
    return decode(encode(values, form), form)


def round_to(values: Array, form: Format, scratch: Array, out: Array) -> None:
    """Round float32 numbers to `form`, to nearest, ties to even, into `out`, which may be `values` itself."""
    # NaN stays NaN where its upper 16 bits say so, as those of 16-bit numbers and of operations do.
    if form is F32:
        if out is not values:
            np.copyto(out, values)
    elif form is F16:
        np.copyto(out, values.astype(np.float16))
    else:
        bits, odd = out.view(np.uint32), scratch.view(np.uint32)
        np.right_shift(values.view(np.uint32), 16, out=odd)
        np.bitwise_and(odd, 1, out=odd)
        np.add(odd, np.uint32(0x7FFF), out=odd)
        np.add(values.view(np.uint32), odd, out=bits)
        np.bitwise_and(bits, np.uint32(0xFFFF0000), out=bits)


@dataclass(frozen=True, slots=True)
class Update:
    """One module's low-rank update, ready to be multiplied out."""

    left: Array  # float32 (rank, rows): `scale * lora_b`, or of an embedding `scale * lora_a.T`
    right: Array  # float32 (rank, columns): `lora_a.T`, or `lora_b`
    form: Format  # format in which MLX holds the product
    after: float = 1.0  # a scale to multiply the product by, as PEFT does; 1 if `left` contains the scale

    @classmethod
    def of(
        cls, a: Array, b: Array, a_form: Format, b_form: Format, scale: float, *, embedding: bool
    ) -> Update:
        """Build the update from the stored tensors `lora_a` and `lora_b` of a module."""
        # The scale is a weak scalar in MLX: rounded to float32, then to the format of the tensor it multiplies.
        scaled, scaled_form, other = (a, a_form, b) if embedding else (b, b_form, a)
        factor = rounded(np.full(1, scale, _F32), scaled_form)[0]
        left = rounded(factor * decode(scaled, scaled_form), scaled_form)
        right = decode(other, b_form if embedding else a_form)
        left, right = (left.T, right) if embedding else (left, right.T)
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise NotFiniteError
        form = a_form if a_form is b_form else F32
        return cls(np.ascontiguousarray(left), np.ascontiguousarray(right), form)

    def round_product(self, delta: Array, scratch: Array, out: Array) -> None:
        """Write the product times `after` into `out`, rounded before and after, as PEFT's `get_delta_weight` does on a GPU."""
        round_to(delta, self.form, scratch, out)
        np.multiply(out, _F32(self.after), out=out)
        round_to(out, self.form, scratch, out)

    def round_to(self, delta: Array, form: Format, scratch: Array, out: Array) -> None:
        """Round the product as MLX stores it, then as `.astype` of the weight's format does, into `out`."""
        round_to(delta, self.form, scratch, out)
        if form is not self.form:
            round_to(out, form, scratch, out)


def multiply_out(left: Array, right: Array, out: Array, scratch: Array) -> None:
    """Write the sum over the rank of left[k] * right[k] to `out`, in float32 and in order."""
    # The loop of the reference BLAS of MLX on Linux x86-64, and of MLX's own for 16-bit formats: from +0, one product and
    # one sum at a time.
    np.multiply(left[0], right[0], out=out)
    for k in range(1, len(left)):
        np.multiply(left[k], right[k], out=scratch)
        np.add(out, scratch, out=out)
    # The sum started from +0: products that are all -0 give +0.
    np.add(out, _F32(0), out=out)


def spare_size(rows: int, columns: int) -> int:
    """Return how many float32 numbers `row_norms` needs in each of its spare arrays, for values of that shape."""
    return rows * (columns + _GAP)


@np.errstate(all="ignore")
def row_norms(values: Array, form: Format, spare: Array, turned: Array, *, per_row: int = 0) -> Array:
    """Return `mx.linalg.norm(values, axis=1)` of (rows, columns) or a quantised block; `spare` and `turned` are overwritten."""
    high, width = values.shape
    rows = width // per_row if per_row else high
    # Rows that begin a power of two apart would fall on each other in the cache when they are transposed.
    squares = spare[: spare_size(high, width)].reshape(high, width + _GAP)[:, :width]
    np.multiply(values, values, out=squares)
    across = turned[: values.size]
    round_to(squares, form, across.reshape(values.shape), squares)
    ordered = squares.reshape(high, rows, per_row).transpose(2, 0, 1) if per_row else squares.T
    np.copyto(across.reshape(ordered.shape), ordered)
    across = across.reshape(-1, rows)
    # NumPy adds a lone row in pairs, and short ones slowly.
    sums = np.add.accumulate(across, axis=0)[-1] if rows < _FEW else np.add.reduce(across, axis=0)
    return rounded(np.sqrt(rounded(sums, form)), form)


@np.errstate(all="ignore")
def row_factors(m: Array, norms: Array, result: Format) -> Array:
    """Return `m / norms` as MLX computes it: float32 (rows,), numbers of `result`; not finite for rows of zeros."""
    return rounded(m / norms, result)


_STEP = np.uint32(0x9E3779B9)
_FIRST, _SECOND = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_UNIT = np.float32(2.0**-24)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers in [0, 1), one for each element of a module's weight; the seed has 32 bits, of the module."""

    seed: int

    @classmethod
    def of(cls, seed: int, path: str) -> Thresholds:
        """Return the thresholds of a module."""
        digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
        return cls(int.from_bytes(digest[:4], "little"))

    def fill(self, first: int, rows: int, out: Array, scratch: Array) -> None:
        """Write the thresholds of whole rows to `out`, float32 (group size, groups), in groups (`layouts`)."""
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
        """Return thresholds of the groups of whole rows, float32 (rows, groups), one for each."""
        numbers = (first + np.arange(shape[0], dtype=np.int64))[:, None] * shape[1] + np.arange(shape[1])
        bits = mixed(numbers.reshape(-1), self.seed).reshape(shape)
        return np.asarray((bits >> np.uint32(8)).astype(np.float32) * _UNIT)


def round_at_random(values: Array, form: Format, chance: Array) -> Array:
    """Round float32 numbers to those of a format, up where the way from the lower neighbour is more than the threshold in [0, 1)."""
    # The caller handles numbers beyond the format.
    if form is F32:
        return values
    finest = np.float32(2.0**-24 if form is F16 else 2.0**-133)
    steps = np.maximum(np.spacing(np.abs(values)) * np.float32(8192 if form is F16 else 65536), finest)
    places = values / steps
    lower = np.floor(places)
    return np.asarray((lower + (chance < places - lower)).astype(np.float32) * steps)


def round_steps(steps: Array, thresholds: Array, scratch: Array) -> None:
    """Round a number of steps to a whole one, up where the fraction exceeds the threshold; in place, overwriting the thresholds."""
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
