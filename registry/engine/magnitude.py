"""DoRA: rows scaled to learned lengths, bit for bit as `DoRALinear.fuse` and `DoRAEmbedding.fuse` on a CPU.

mlx-lm adds the low-rank update to the weight in the weight's format, W1, and writes `(m / norm(W1))[:, None] * W1`.
What MLX 0.32.4 rounds, in order (found by trying, the tests hold it): each square to the format of W1; the sum of a
row runs in float32, strictly from the first column to the last, and is rounded once; so is its square root.
Quotient and product are in the format that MLX promotes `m` and W1 to: float32, unless both have one 16-bit format.

The order of the sum does not depend on how wide the processor's vectors are where MLX's vectors hold one number, on
x86-64; by its source (mlx/backend/cpu/reduce.cpp, simd.h), Apple's processors add in several lanes, so that
`mlx_lm.fuse` may differ there in last bits.  This module gives the bits of x86-64 everywhere.

A row of zeros has no direction: 0 / 0 and m / 0 times 0 are NaN, here as in MLX.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import F16, F32, Array, Format, decode, encode, round_any

_FEW = 8
_GAP = 16
_HALF = np.uint32(0x7FFF)
_UPPER = np.uint32(0xFFFF0000)


def spare_size(rows: int, columns: int) -> int:
    """Return how many float32 numbers `row_norms` needs in each of its spare arrays, for values of that shape."""
    return rows * (columns + _GAP)


@np.errstate(all="ignore")
def row_norms(values: Array, form: Format, spare: Array, turned: Array, *, per_row: int = 0) -> Array:
    """Return `mx.linalg.norm(values, axis=1)` as new float32 (rows,), numbers of `form`.

    Args:
        values: float32 numbers of `form`: (rows, columns), or a quantised block (group size, groups).
        form: format in which MLX computes.
        spare: float32, one-dimensional, at least `spare_size(*values.shape)` long, overwritten.
        turned: like `spare`; receives the transposed squares.
        per_row: groups of a row, for a quantised block.
    """
    high, width = values.shape
    rows = width // per_row if per_row else high
    # Rows that begin a power of two apart would fall on each other in the cache when they are transposed.
    squares = spare[: spare_size(high, width)].reshape(high, width + _GAP)[:, :width]
    np.multiply(values, values, out=squares)
    across = turned[: values.size]
    _round_squares(squares, form, across.reshape(values.shape))
    ordered = squares.reshape(high, rows, per_row).transpose(2, 0, 1) if per_row else squares.T
    np.copyto(across.reshape(ordered.shape), ordered)
    sums = _sum_in_order(across.reshape(-1, rows))
    return _rounded(np.sqrt(_rounded(sums, form)), form)


def result_form(m_form: Format, form: Format) -> Format:
    """Return the format of DoRA's result for magnitudes of one format and a weight of another."""
    return form if m_form is form else F32


@np.errstate(all="ignore")
def row_factors(m: Array, norms: Array, result: Format) -> Array:
    """Return `m / norms` as MLX computes it: new float32 (rows,), numbers of `result`; not finite for rows of zeros.

    Args:
        m: float32 (rows,), the learned lengths.
        norms: float32 (rows,), from `row_norms`.
        result: from `result_form`.
    """
    return _rounded(m / norms, result)


def rescale(
    values: Array, factors: Array, result: Format, scratch: Array, out: Array, *, exact: bool
) -> None:
    """Write the product of rows and their factors, rounded to `result`, to `out`.

    Args:
        values: float32 (rows, columns), or a quantised block (group size, groups).
        factors: float32 that broadcasts: (rows, 1), or one number for each group.
        result: from `result_form`.
        scratch: like `values`.
        out: like `values`, or `values` itself.
        exact: take the exact way; the fast one is right within the bounds of `round_any`.
    """
    np.multiply(values, factors, out=out)
    round_any(out, result, scratch, out, exact=exact)


def intended_change(base: Array, delta: Array, factors: Array, out: Array) -> None:
    """Write what base and adapter together compute beyond the base, before any rounding, to `out`.

    At run time (`DoRALinear.__call__`) the weight is `m / |W + D| * (W + D)`, with D and the norm in float32: pass
    `row_factors(m, row_norms(base + delta, F32, ...), F32)`.

    Args:
        base: float32, the base's weight W, rows or a quantised block.
        delta: float32 like `base`, the update D as it was multiplied out, not rounded.
        factors: float32 that broadcasts.
        out: like `base`, another array than `base`.
    """
    np.add(base, delta, out=out)
    np.multiply(out, factors, out=out)
    np.subtract(out, base, out=out)


def _round_squares(squares: Array, form: Format, scratch: Array) -> None:
    """Round squares to `form` in place, exactly, whatever they are."""
    if form is F32:
        return
    if form is F16:
        sound = float(squares.max(initial=0)) < F16.limit  # false for NaN
        round_any(squares, form, scratch, squares, exact=not sound)
        return
    # To nearest, ties to even, on the bits: right for subnormal numbers too, and for the NaN of 16-bit numbers.
    bits, odd = squares.view(np.uint32), scratch.view(np.uint32)
    np.right_shift(bits, 16, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, _HALF, out=odd)
    np.add(bits, odd, out=bits)
    np.bitwise_and(bits, _UPPER, out=bits)


def _sum_in_order(across: Array) -> Array:
    """Return the sums down the columns of (columns, rows), one number after the other."""
    if across.shape[1] < _FEW:  # NumPy adds a lone row in pairs, and short ones slowly
        return np.asarray(np.add.accumulate(across, axis=0)[-1])
    return np.asarray(np.add.reduce(across, axis=0))


def _rounded(values: Array, form: Format) -> Array:
    return decode(encode(values, form), form)
