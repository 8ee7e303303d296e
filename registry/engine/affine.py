"""MLX's affine quantisation, bit for bit that of `mx.quantize` and `mx.dequantize` on a CPU.

A row is cut into groups of 32, 64 or 128 numbers with a scale and a bias in the weights' format, and a code of 2 to 8 bits a number;
the codes of a row are one little-endian stream of bits, the array of a block is (group size, groups).
Sources: mlx/backend/cpu/quantized.cpp (`quantize`) and mlx/ops.cpp (`affine_dequantize`), MLX 0.32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arithmetic import Array, Format, round_to, rounded

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)

_EPSILON = np.float32(1e-7)
_CODES_PER_PACK = {2: 16, 3: 8, 4: 8, 5: 4, 6: 4, 8: 4}


@dataclass(frozen=True, slots=True)
class Packing:
    """How codes of some bits are packed, and how many of them share a scale."""

    bits: int
    group_size: int

    @property
    def words_per_group(self) -> int:
        """32-bit words that hold the codes of a group."""
        return self.group_size * self.bits // 32

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def words(self, columns: int) -> int:
        """Return the 32-bit words of a row of `columns` numbers."""
        return columns // self.group_size * self.words_per_group


@dataclass(frozen=True, slots=True)
class Grid(Packing):
    """How a weight is quantised; `form` is that of scales and biases, and of the dequantised numbers."""

    form: Format

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy dtype of stored scales."""
        return self.form.stored


def unpack(words: Array, grid: Packing, codes: Array) -> None:
    """Write the codes of words, uint32 (groups, words per group), to `codes`, uint32 (group size, groups)."""
    packs = _split(words, grid.bits)
    per = _CODES_PER_PACK[grid.bits]
    shifts = np.arange(0, per * grid.bits, grid.bits, dtype=np.uint32)
    places = codes.reshape(len(packs), per, codes.shape[1])
    np.right_shift(packs[:, None, :], shifts[None, :, None], out=places)
    np.bitwise_and(codes, np.uint32(grid.top), out=codes)


def pack(codes: Array, grid: Packing) -> Array:
    """Return the words of codes: the inverse of `unpack`, uint32 (groups, words per group)."""
    per = _CODES_PER_PACK[grid.bits]
    places = codes.reshape(-1, per, codes.shape[1])
    packs = places[:, 0].copy()
    scratch = np.empty_like(packs)
    for place in range(1, per):
        np.left_shift(places[:, place], place * grid.bits, out=scratch)
        np.bitwise_or(packs, scratch, out=packs)
    return _join(packs, grid.bits)


def dequantize(codes: Array, scales: Array, biases: Array, form: Format, out: Array, scratch: Array) -> None:
    """Write code * scale + bias, rounded to `form` after the product and after the sum, to `out`."""
    # Codes are uint32 (group size, groups), scales and biases float32 (groups,), `out` and `scratch` float32 like `codes`.
    np.copyto(out, codes.view(np.int32))  # faster than from unsigned numbers
    np.multiply(out, scales, out=out)
    round_to(out, form, scratch, out)
    np.add(out, biases, out=out)
    round_to(out, form, scratch, out)


def quantize(values: Array, grid: Grid, scratch: Array, codes: Array) -> tuple[Array, Array]:
    """Quantise finite float32 numbers of the grid's format: write the codes, return scales and biases as new float32."""
    # The codes are found with the scale in float32, before it is rounded to the grid's format, as MLX does; the
    # biases are of that format already.
    scales, biases = _fit(values.max(axis=0), values.min(axis=0), np.float32(grid.top))
    np.subtract(values, biases, out=scratch)
    np.divide(scratch, scales, out=scratch)
    np.rint(scratch, out=scratch)
    np.clip(scratch, np.float32(0), np.float32(grid.top), out=scratch)
    if not scales.all():  # equal numbers so large that one step was too small for float32
        np.copyto(scratch, np.float32(0), where=scales == 0)
    np.copyto(codes.view(np.int32), scratch, casting="unsafe")
    return rounded(scales, grid.form), biases


def fit(values: Array, grid: Grid) -> tuple[Array, Array]:
    """Return the scales and biases that `quantize` would give to finite numbers: float32 of the grid's format."""
    scales, biases = _fit(values.max(axis=0), values.min(axis=0), np.float32(grid.top))
    return rounded(scales, grid.form), biases


def _fit(highest: Array, lowest: Array, top: np.float32) -> tuple[Array, Array]:
    """Return scales and biases in float32: the end of larger magnitude is met exactly, as is zero where it can be."""
    flip = np.abs(lowest) > np.abs(highest)
    scales = np.maximum((highest - lowest) / top, _EPSILON)
    scales = np.where(flip, scales, -scales)
    edges = np.where(flip, lowest, highest)
    steps = np.rint(edges / scales)
    some = steps != 0
    np.divide(edges, steps, out=scales, where=some)
    return scales, np.where(some, edges, np.float32(0))


def _split(words: Array, bits: int) -> Array:
    """Return packs of codes that do not straddle, uint32 (packs per group, groups)."""
    if bits in (2, 4, 8):
        return np.ascontiguousarray(words.T)
    octets = words.view(np.uint8).reshape(len(words), -1, 5 if bits == 5 else 3).transpose(1, 2, 0)
    parts = octets.astype(np.uint32)
    if bits != 5:
        return np.asarray(parts[:, 0] | parts[:, 1] << np.uint32(8) | parts[:, 2] << np.uint32(16))
    low = parts[:, 0] | parts[:, 1] << np.uint32(8) | (parts[:, 2] & np.uint32(15)) << np.uint32(16)
    high = parts[:, 2] >> np.uint32(4) | parts[:, 3] << np.uint32(4) | parts[:, 4] << np.uint32(12)
    return np.stack([low, high], axis=1).reshape(-1, len(words))


def _join(packs: Array, bits: int) -> Array:
    """Return the words of packs: the inverse of `_split`."""
    if bits in (2, 4, 8):
        return np.ascontiguousarray(packs.T)
    groups = packs.shape[1]
    if bits != 5:
        octets = [packs >> np.uint32(8 * place) for place in range(3)]
    else:
        low, high = packs[0::2], packs[1::2]
        middle = low >> np.uint32(16) | (high & np.uint32(15)) << np.uint32(4)
        octets = [low, low >> np.uint32(8), middle, high >> np.uint32(4), high >> np.uint32(12)]
    stream = np.stack([part.astype(np.uint8) for part in octets], axis=1).reshape(-1, groups)
    return np.asarray(np.ascontiguousarray(stream.T).view(np.uint32))
