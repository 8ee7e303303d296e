"""The yardstick of updates that were trained through a quantiser: the sum on that grid, less the base on it.

What was trained is quantise(W + BA), so that this is what base and adapter compute together; a model that holds it to the bit has
lost nothing, however far it is from W + BA.
"""

from __future__ import annotations

import numpy as np

from .affine import Grid, dequantize, quantize
from .arithmetic import Array, Format
from .grids import AnyGrid
from .layouts import to_groups, to_rows
from .microscaling import FloatGrid, OutOfRangeError
from .rows import Kind, NotFiniteError


def intended_through(grid: AnyGrid, kind: Kind, new: Array, base: Array, delta: Array) -> Array:
    """Return what was trained, the sum on a grid, and set the intended change of a block to its difference from what is stored.

    Args:
        grid: that the update was trained through.
        kind: how the rows are stored; the arrays are laid out as it says.
        new: float32, the sum in the format that would be quantised.
        base: float32, the base's numbers.
        delta: float32, overwritten.

    Raises:
        NotFiniteError: the grid cannot hold the sum.
    """
    intended = _on_grid(new, kind, grid)
    if not np.isfinite(intended).all():
        raise NotFiniteError
    np.subtract(intended, base, out=delta)
    return intended


def measure_on(grid: AnyGrid, kind: Kind, intended: Array, base: Array, delta: Array) -> None:
    """Have a block measured from the base on the grid; a base that lies on one of that kind is taken as it is.

    Args:
        grid: that the update was trained through.
        kind: how the rows are stored.
        intended: from `intended_through`.
        base: float32, the base's numbers; overwritten.
        delta: float32, overwritten.
    """
    if kind.grid is None or not _alike(kind.grid, grid):
        np.copyto(base, _on_grid(base, kind, grid))
        np.subtract(intended, base, out=delta)


def scales_of(grid: FloatGrid, values: Array, codes: Array, form: Format) -> Array:
    """Write the codes of numbers and return their scales; see `FloatGrid.quantize`.

    Raises:
        NotFiniteError: the grid has no scale for a group.
    """
    try:
        return grid.quantize(values, codes, form)
    except OutOfRangeError as error:
        raise NotFiniteError from error


def _alike(one: AnyGrid, other: AnyGrid) -> bool:
    return (type(one), one.bits, one.group_size) == (type(other), other.bits, other.group_size)


def _on_grid(values: Array, kind: Kind, grid: AnyGrid) -> Array:
    """Return the numbers of a block, laid out as they are, quantised to a grid and back."""
    rows = np.empty((values.size // kind.columns, kind.columns), np.float32)
    if kind.group is None:
        np.copyto(rows, values)
    else:
        to_rows(values, rows)
    groups = np.empty((grid.group_size, values.size // grid.group_size), np.float32)
    to_groups(rows, groups)
    codes = np.empty(groups.shape, np.uint32)
    if isinstance(grid, Grid):
        scratch = np.empty_like(groups)
        scales, biases = quantize(groups, grid, scratch, codes)
        dequantize(codes, scales, biases, grid.form, groups, scratch, exact=True)
    else:
        grid.dequantize(codes, scales_of(grid, groups, codes, kind.target.form), groups)
    to_rows(groups, rows)
    if kind.group is None:
        return rows
    found = np.empty_like(values)
    to_groups(rows, found)
    return found
