"""Exact arithmetic on bfloat16, float16 and float32 in NumPy, bit for bit that of MLX on a CPU.

Every step is one IEEE 754 binary32 operation in a fixed order: no BLAS, no fused multiply-add, no reassociation, so
the bits are the same on every platform, and those of `mlx_lm.fuse` on Linux x86-64.

Numbers are stored as they lie in the file (BF16 and F16 as uint16, F32 as float32) and computed as float32.  Every
operation comes in two ways with one result: a fast one, a few passes over a block that stays in the processor's
cache, right within stated bounds; and an exact one, slower, right for every bit pattern (subnormal deltas, overflow,
NaN).  Whoever uses the fast way checks the bounds, cheaply, and takes the exact way where they do not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_F32 = np.float32
_ZERO = _F32(0)
_TWO_112 = _F32(2.0**112)
_TWO_MINUS_112 = _F32(2.0**-112)
_MAGIC = _F32(1.5 * 2.0**13)
_SMALLEST_NORMAL = np.uint32(0x38800000)
_EXPONENT = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_SIGN_AND_HALF = np.uint32(0x8FFFFFFF)


@dataclass(frozen=True, slots=True)
class Format:
    """A number format of weights.

    Attributes:
        name: safetensors dtype.
        size: bytes per number.
        splitter: 2^s + 1, where s is the number of mantissa bits that float32 has more; 1 for float32.
        limit: the fast ways are right for magnitudes up to this one.
    """

    name: str
    size: int
    splitter: np.float32
    limit: float

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy dtype of stored numbers."""
        return np.dtype(np.float32 if self.size == 4 else np.uint16)


BF16 = Format("BF16", 2, _F32(65537), 2.0**100)
F16 = Format("F16", 2, _F32(8193), 65504.0)
F32 = Format("F32", 4, _F32(1), 2.0**100)
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


def widen(stored: Array, form: Format, out: Array, *, exact: bool) -> None:
    """Write stored numbers to `out` as float32; the fast way reads float16's infinities and NaN as 65536 and more."""
    if exact or form is F32:
        np.copyto(out, decode(stored, form) if exact else stored)
        return
    bits = out.view(np.uint32)
    if form is BF16:
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        # The sign goes to the top, exponent and mantissa to where a product with 2^112 mends the bias.
        np.copyto(out.view(np.int32), stored.view(np.int16))
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, _SIGN_AND_HALF, out=bits)
        np.multiply(out, _TWO_112, out=out)


def low_halves(values: Array, form: Format, out: Array, *, exact: bool) -> None:
    """Write the stored bits of numbers that a 16-bit format can hold to `out`, one in each uint32.

    The fast way is for finite numbers.
    """
    if exact:
        np.copyto(out, encode(values, form))
    elif form is BF16:
        np.right_shift(values.view(np.uint32), 16, out=out)
    else:
        np.multiply(values, _TWO_MINUS_112, out=out.view(_F32))
        np.right_shift(out, 13, out=out)
        np.bitwise_and(out, np.uint32(0x7FFF), out=out)
        sign = values.view(np.uint32) >> np.uint32(16)
        np.bitwise_and(sign, np.uint32(0x8000), out=sign)
        np.bitwise_or(out, sign, out=out)


def narrow(values: Array, form: Format, scratch: Array, out: Array, *, exact: bool) -> None:
    """Store float32 numbers that `form` can hold; the fast way is for finite ones."""
    if form is F32:
        np.copyto(out, values)
        return
    bits = scratch.view(np.uint32)
    low_halves(values, form, bits, exact=exact)
    np.copyto(out, bits, casting="unsafe")


def round_sum(values: Array, form: Format, scratch: Array, out: Array, *, exact: bool) -> None:
    """Round sums of two numbers of `form`, or products of one with a small whole number, into `out`.

    The fast way is Veltkamp's splitting, c - (c - x) with c = x (2^s + 1): three passes that round to nearest, ties
    to even (all 2^23 mantissas are tried in the tests).  It takes no account of the coarser steps of subnormal
    numbers, and need not: such sums and products are whole multiples of the smallest step.

    Args:
        values: float32.
        form: the format to round to.
        scratch: like `values`.
        out: like `values`, or `values` itself.
        exact: take the exact way.
    """
    if form is F32:
        if out is not values:
            np.copyto(out, values)
    elif exact:
        np.copyto(out, decode(encode(values, form), form))
    else:
        np.multiply(values, form.splitter, out=scratch)
        np.subtract(scratch, values, out=out)
        np.subtract(scratch, out, out=out)


def round_any(values: Array, form: Format, scratch: Array, out: Array, *, exact: bool) -> None:
    """Round any float32 numbers to `form`, into `out`; arguments as for `round_sum`.

    The fast way is right for magnitudes that are 0 or from 2^-126 (any, in float16) up to `form.limit`.
    """
    if exact or form is not F16:
        round_sum(values, form, scratch, out, exact=exact)
        return
    # Adding and subtracting 1.5 * 2^13 times the number's power of two, but at least 2^-14, leaves the ten bits of
    # mantissa or the multiple of 2^-24 that float16 has; the sign of what became zero is put back.
    bits, steps = values.view(np.uint32), scratch.view(np.uint32)
    sign = bits & _SIGN
    np.bitwise_and(bits, _EXPONENT, out=steps)
    np.clip(steps, _SMALLEST_NORMAL, _EXPONENT, out=steps)  # a third of the time of np.maximum
    np.multiply(scratch, _MAGIC, out=scratch)
    np.add(values, scratch, out=out)
    np.subtract(out, scratch, out=out)
    np.bitwise_or(out.view(np.uint32), sign, out=out.view(np.uint32))


@dataclass(frozen=True, slots=True)
class Update:
    """One module's low-rank update, ready to be multiplied out.

    Attributes:
        left: float32 (rank, rows): `scale * lora_b` of a linear layer, `scale * lora_a.T` of an embedding.
        right: float32 (rank, columns): `lora_a.T`, or `lora_b`.
        form: format in which MLX holds the product.
        smallest: no product that is not zero is smaller than this.
        largest: no sum of products is larger than this.
    """

    left: Array
    right: Array
    form: Format
    smallest: float
    largest: float

    @classmethod
    def of(
        cls, a: Array, b: Array, a_form: Format, b_form: Format, scale: float, *, embedding: bool
    ) -> Update:
        """Build the update from the stored tensors `lora_a` and `lora_b` of a module.

        The scale is a weak scalar in MLX: rounded to float32, then to the format of the tensor it multiplies.

        Raises:
            ValueError: a number is not finite.
        """
        scaled, scaled_form, other = (a, a_form, b) if embedding else (b, b_form, a)
        factor = decode(encode(np.full(1, scale, _F32), scaled_form), scaled_form)[0]
        left = decode(encode(factor * decode(scaled, scaled_form), scaled_form), scaled_form)
        right = decode(other, b_form if embedding else a_form)
        left, right = (left.T, right) if embedding else (left, right.T)
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise ValueError("not finite")
        form = a_form if a_form is b_form else F32
        magnitudes = np.abs(left), np.abs(right)
        smallest = np.prod(
            [np.min(part, where=part > 0, initial=1e30).astype(np.float64) for part in magnitudes]
        )
        peaks = magnitudes[0].max(axis=1).astype(np.float64) * magnitudes[1].max(axis=1).astype(np.float64)
        return cls(
            np.ascontiguousarray(left), np.ascontiguousarray(right), form, float(smallest), float(peaks.sum())
        )

    @classmethod
    def nothing(cls, rows: int, columns: int) -> Update:
        """Return the update that changes nothing: what mlx-lm makes of a module it wraps and finds no tensors for."""
        return cls(np.zeros((1, rows), _F32), np.zeros((1, columns), _F32), F32, 1.0, 0.0)

    def needs_exact(self, form: Format) -> bool:
        """Whether the fast ways could be wrong for this update on weights of `form`.

        Sums of products are multiples of 2^-23 of the smallest one, so products from 2^-100 keep clear of the
        subnormal numbers.  In float16 the update must be so small that weight + update tells an infinite weight.
        """
        half = form is F16 or self.form is F16
        return not (self.smallest >= 2.0**-100 and self.largest <= (16.0 if half else form.limit))

    def round_to(self, delta: Array, form: Format, scratch: Array, out: Array, *, exact: bool) -> None:
        """Round the product as MLX stores it, then as `.astype` of the weight's format does, into `out`."""
        round_any(delta, self.form, scratch, out, exact=exact)
        if form is not self.form:
            round_any(out, form, scratch, out, exact=exact)


def multiply_out(left: Array, right: Array, out: Array, scratch: Array) -> None:
    """Write the sum over the rank of left[k] * right[k] to `out`, in float32 and in order.

    This is the loop of the reference BLAS that MLX uses on Linux x86-64, and of MLX's own loop for 16-bit formats:
    starting from +0, one product and one sum at a time.

    Args:
        left: as many arrays as the rank, that broadcast against those of `right`.
        right: as many arrays as the rank.
        out: of the broadcast shape.
        scratch: like `out`.
    """
    np.multiply(left[0], right[0], out=out)
    for k in range(1, len(left)):
        np.multiply(left[k], right[k], out=scratch)
        np.add(out, scratch, out=out)
    # The sum started from +0: products that are all -0 give +0.
    np.add(out, _ZERO, out=out)
