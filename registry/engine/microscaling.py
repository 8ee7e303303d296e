"""MLX's formats of small floating-point numbers, bit for bit those of `mx.quantize` and `mx.dequantize` on a CPU.

A row is cut into groups of 16 or 32 numbers, codes of 4 bits (e2m1) or 8 (e4m3), times a scale of one byte: a power of two (e8m0), or
an e4m3 number in nvfp4.  Dequantised numbers are bfloat16.  Packing and blocks are those of `affine`.
Sources: OCP Microscaling Formats 1.0, and what MLX 0.32.4 does where it differs, found by trying and held by the tests:

- scales are the group's largest magnitude / 6 or / 448, rounded in the format of the numbers quantised, then up to a power of two, or
  to the nearest e4m3; a group of zeros has the scale 1, in nvfp4 0;
- 4-bit codes are nearest with ties towards zero, and no zero is negative; 8-bit ones are nearest with ties to even;
- the e8m0 byte for NaN, 255, is read as infinity.

NVIDIA's NVFP4 also has a float32 scale for the whole tensor (`tensor_scale`), which MLX's linear layers lack.  Its arithmetic is that of
`nvfp4_quantize` and `NVFP4Tensor.dequantize` of torchao 0.17 and 0.18, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .affine import Packing
from .arithmetic import BF16, Array, Format, NotFiniteError, round_to, rounded

NVFP4 = "nvfp4"

_F32 = np.float32
_SIGN = np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_BELOW_ONE = np.uint32(0x007FFFFF)
_TIES = tuple(_F32(tie) for tie in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0))
_SMALLEST_NORMAL = _F32(2.0**-126)


@dataclass(frozen=True, slots=True)
class _Numbers:
    mantissa: int
    lowest: int  # exponent of the smallest normal number
    top: np.float32

    @property
    def lowest_bits(self) -> np.uint32:
        """The float32 exponent, in place, of the smallest normal number."""
        return np.uint32((127 + self.lowest) << 23)

    def split(self, magnitudes: Array) -> tuple[Array, Array]:
        """Return the float32 exponent bits in place, at least `lowest_bits`, and as new codes those of the exponent."""
        exponents = magnitudes.view(np.uint32) & _EXPONENT
        np.clip(exponents, self.lowest_bits, _EXPONENT, out=exponents)
        codes = exponents - self.lowest_bits
        np.right_shift(codes, 23 - self.mantissa, out=codes)
        return exponents, codes

    def nearest(self, magnitudes: Array) -> Array:
        """Return the codes of numbers >= 0, to nearest, ties to even, at most the top: new uint32."""
        clipped = np.minimum(magnitudes, self.top)
        shifters, codes = self.split(clipped)
        # Adding 1.5 * 2^(23 - mantissa) times the power of two leaves the count of steps in the lowest bits.
        np.add(shifters, np.uint32(((23 - self.mantissa) << 23) | 0x400000), out=shifters)
        np.add(clipped, shifters.view(_F32), out=clipped)
        steps = clipped.view(np.uint32)
        np.subtract(steps, shifters, out=steps)
        return np.asarray(np.add(steps, codes, out=codes))

    def at_random(self, magnitudes: Array, thresholds: Array) -> Array:
        """Return the codes of a neighbour of numbers in [0, top], the higher one where the fraction is larger."""
        exponents, codes = self.split(magnitudes)
        np.subtract(np.uint32((254 + self.mantissa) << 23), exponents, out=exponents)
        whole, bits = exponents.view(_F32), magnitudes.view(np.uint32)
        np.multiply(magnitudes, whole, out=magnitudes)
        np.floor(magnitudes, out=whole)
        higher = np.less(thresholds, np.subtract(magnitudes, whole, out=magnitudes))
        np.copyto(bits.view(np.int32), whole, casting="unsafe")
        np.add(codes, bits, out=codes)
        np.copyto(bits, higher)
        return np.asarray(np.add(codes, bits, out=codes))


_E2M1 = _Numbers(1, 0, _F32(6))
_E4M3 = _Numbers(3, -6, _F32(448))


@dataclass(frozen=True, slots=True)
class FloatGrid(Packing):
    """How a weight is quantised; `form` is that of the dequantised numbers."""

    mode: str
    form: Format = BF16
    tensor_scale: float | None = None  # multiplies every number of the tensor; for nvfp4 only

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy dtype of stored scales."""
        return np.dtype(np.uint8)

    def dequantize(self, codes: Array, scales: Array, out: Array) -> None:
        """Write the numbers, rounded to bfloat16, to `out`, float32 like the uint32 codes; scales are uint8 (groups,)."""
        self._decode(codes, out)
        with np.errstate(all="ignore"):
            np.multiply(out, self._factors()[scales], out=out)
            # Where every code times every scale is a bfloat16 number, neither subnormal nor too large, there is nothing to round.
            low, high = (2, 252) if self.bits == 4 else (10, 246)
            sound = scales.min(initial=255) >= low and scales.max(initial=0) <= high
            if self.tensor_scale is not None or (self.mode != NVFP4 and not sound):
                np.copyto(out, rounded(out, BF16))

    def quantize(self, values: Array, codes: Array, form: Format) -> Array:
        """Quantise float32 numbers of `form`: write the uint32 codes, return the scales as new uint8 (groups,)."""
        magnitudes = np.abs(values)
        peaks = magnitudes.max(axis=0)
        if self.tensor_scale is not None:
            return _quantize_scaled(values, magnitudes, peaks, _F32(self.tensor_scale), codes)
        quotients = peaks / self._numbers.top
        with np.errstate(all="ignore"):
            quotients = rounded(quotients, form)
        # MLX makes nonsense of these: large numbers become small there, and small ones large.
        limit = 2.0**32 if self.mode == NVFP4 else 2.0**100
        small = self.mode != NVFP4 and ((peaks > 0) & (quotients > 0) & (quotients < _SMALLEST_NORMAL)).any()
        if small or not peaks.max(initial=0) < limit:  # so for NaN
            raise NotFiniteError(f"not every group of 16 or 32 numbers has a scale in {self.mode}")
        if self.mode == NVFP4:
            scales = _E4M3.nearest(quotients)
            divisors = self._factors()[scales]
            np.copyto(divisors, np.inf, where=scales == 0)  # MLX divides by zero, and writes the code 0
            np.divide(magnitudes, divisors, out=magnitudes)
            round_to(magnitudes, form, np.empty_like(magnitudes), magnitudes)
        else:
            scales = (quotients.view(np.uint32) + _BELOW_ONE) >> np.uint32(23)
            scales = np.where(quotients == 0, np.uint32(127), scales)
            np.multiply(magnitudes, ((np.uint32(254) - scales) << np.uint32(23)).view(_F32), out=magnitudes)
        (_encode_4 if self.bits == 4 else _encode_8)(values, magnitudes, codes)
        return scales.astype(np.uint8)

    def dither(self, codes: Array, scales: Array, delta: Array, thresholds: Array) -> None:
        """Move each code so that its number changes by `delta` on average, in place."""
        # The sum of number and change is between two numbers of the format; it becomes the one of larger magnitude
        # with a probability equal to its place between them. Beyond the ends of the format it becomes the end.
        # Codes stay where the change is zero, and where code or scale mean nothing (NaN, a scale of 0 or infinity).
        factors = self._factors()[scales]
        np.copyto(factors, np.inf, where=factors == 0)
        change = delta / factors
        values = np.empty_like(change)
        self._decode(codes, values)
        np.add(values, change, out=values)
        moving = np.not_equal(change, 0)
        np.logical_and(moving, np.isfinite(values), out=moving)
        all_move = bool(moving.all())
        if not all_move:
            np.copyto(values, _F32(0), where=~moving)
        moved = np.right_shift(values.view(np.uint32), 31, out=change.view(np.uint32))
        np.left_shift(moved, self.bits - 1, out=moved)
        np.abs(values, out=values)
        np.minimum(values, self._numbers.top, out=values)
        np.bitwise_or(moved, self._numbers.at_random(values, thresholds), out=moved)
        np.copyto(codes, moved, where=True if all_move else moving)

    def _decode(self, codes: Array, out: Array) -> None:
        (_decode_4 if self.bits == 4 else _decode_8)(codes, out)

    @property
    def _numbers(self) -> _Numbers:
        return _E2M1 if self.bits == 4 else _E4M3

    def _factors(self) -> Array:
        """Return what each byte of a scale means, float32 (256,)."""
        every = np.arange(256, dtype=np.uint32)
        if self.mode == NVFP4:
            values = np.empty((1, 256), _F32)
            _decode_8(every[None], values)
            scale = 1 if self.tensor_scale is None else self.tensor_scale
            return np.asarray(values[0] * _F32(scale))
        factors: Array = np.ldexp(_F32(1), np.minimum(every, 254).astype(np.int32) - 127)
        factors[255] = np.inf
        return factors


# The formats by MLX's name.
_GRIDS = (FloatGrid(4, 32, "mxfp4"), FloatGrid(4, 16, NVFP4), FloatGrid(8, 32, "mxfp8"))
MODES = {grid.mode: grid for grid in _GRIDS}


def _decode_4(codes: Array, out: Array) -> None:
    """Write the e2m1 numbers of codes, uint32, to `out`, float32, like `codes`; zeros keep their sign."""
    bits = out.view(np.uint32)
    np.bitwise_and(codes, 7, out=bits)
    np.left_shift(bits, 22, out=bits)
    np.add(bits, np.uint32(0x3F000000), out=bits)
    # Now 0.5, 0.75, 1, 1.5 ...: the first two should be 0 and 0.5.  (Read as subnormal numbers they would be right
    # without this, and processors take a hundred times as long for those.)
    scratch = np.multiply(out, _F32(2))
    np.subtract(scratch, _F32(1), out=scratch)
    np.minimum(out, scratch, out=out)
    signs = scratch.view(np.uint32)
    np.left_shift(codes, 28, out=signs)
    np.bitwise_and(signs, _SIGN, out=signs)
    np.bitwise_or(bits, signs, out=bits)


def _decode_8(codes: Array, out: Array) -> None:
    """Write the e4m3 numbers of codes, uint32, to `out`, float32, like `codes`."""
    bits = out.view(np.uint32)
    np.left_shift(codes, 24, out=bits)
    np.right_shift(bits.view(np.int32), 4, out=bits.view(np.int32))  # the sign stays at the top
    np.bitwise_and(bits, np.uint32(0x87F00000), out=bits)
    np.multiply(out, _F32(2.0**120), out=out)
    if out.max(initial=0) > _E4M3.top or out.min(initial=0) < -_E4M3.top:
        np.copyto(out, np.nan, where=np.abs(out) > _E4M3.top)  # 480 would be 0x7F, the code for NaN


def _encode_4(values: Array, magnitudes: Array, codes: Array) -> None:
    """Write e2m1 codes: the number of ties below the magnitude, and the sign of what is not zero."""
    passed = np.empty(codes.shape, np.bool_)
    counts = np.zeros(codes.shape, np.uint8)
    for tie in _TIES:
        np.greater(magnitudes, tie, out=passed)
        np.add(counts, passed.view(np.uint8), out=counts)
    np.less(values, _F32(0), out=passed)
    np.logical_and(passed, counts, out=passed)
    np.bitwise_or(counts, passed.view(np.uint8) << np.uint8(3), out=counts)
    np.copyto(codes, counts)


def _encode_8(values: Array, magnitudes: Array, codes: Array) -> None:
    """Write e4m3 codes, with the sign, of zeros too."""
    np.right_shift(values.view(np.uint32), 24, out=codes)
    np.bitwise_and(codes, np.uint32(0x80), out=codes)
    np.bitwise_or(codes, _E4M3.nearest(magnitudes), out=codes)


def _quantize_scaled(
    values: Array, magnitudes: Array, peaks: Array, tensor_scale: Any, codes: Array
) -> Array:
    """Quantise as `FloatGrid.quantize`, but in the steps of torchao: round codes to nearest, ties to even; zeros keep their sign."""
    if not np.isfinite(peaks).all():
        raise NotFiniteError("not every number is finite")
    # A group of zeros has the smallest normal scale.
    quotients = np.clip(peaks / _F32(6) / tensor_scale, _F32(2.0**-6), _E4M3.top)
    scales, factors = _E4M3.nearest(quotients), np.empty_like(quotients)
    _decode_8(scales, factors)
    with np.errstate(over="ignore"):
        np.multiply(magnitudes, _F32(1) / tensor_scale / factors, out=magnitudes)
    np.right_shift(values.view(np.uint32), 28, out=codes)
    np.bitwise_and(codes, np.uint32(8), out=codes)
    np.bitwise_or(codes, _E2M1.nearest(magnitudes), out=codes)
    return scales.astype(np.uint8)
