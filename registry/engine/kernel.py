"""The compiled arithmetic, if it was built: the same bits as `blocks`, `shaping` and `shaped` in NumPy, five times as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .affine import Grid
from .arithmetic import Array, Format
from .fidelity import Sums

if TYPE_CHECKING:
    from .rows import Change, RowsFormat, StoredRows

try:
    from . import _kernel as _compiled
except ImportError:
    compiled: Any = None
else:
    compiled = _compiled
"""The compiled module, or None."""

_FORMS = {"F32": 0, "BF16": 1, "F16": 2}


def handles(kind: RowsFormat, change: Change | None) -> bool:
    """Whether the compiled arithmetic knows a kind of module: LoRA, from plain or affine numbers to plain or affine."""
    is_supported = all(grid is None or isinstance(grid, Grid) for grid in (kind.grid, kind.target.grid))
    is_lora = kind.aware is None and not kind.once and (change is None or change.magnitudes is None)
    plain = kind.plain is kind.form and not kind.target.dither
    return compiled is not None and is_supported and is_lora and plain


def fuse_rows(
    rows: StoredRows, kind: RowsFormat, change: Change | None, first: int, out: StoredRows
) -> Sums | None:
    """Do what `blocks.fuse_rows` does for a kind that is handled; None if a number is not finite."""
    left = right = None
    stride = rank = update_form = 0
    if change is not None:
        left, right = change.update.left, change.update.right
        rank, stride = left.shape
        update_form = _FORMS[change.update.form.name]

    def parts(some: StoredRows, grid: Any) -> tuple[Array | None, Array | None]:
        return (some.scales, some.biases) if grid is not None else (None, None)

    def numbers(grid: Any, form: Format) -> tuple[int, int, int]:
        return *((grid.bits, grid.group_size) if grid is not None else (0, 0)), _FORMS[form.name]

    sums = compiled.fuse(
        rows.weight,
        *parts(rows, kind.grid),
        out.weight,
        *parts(out, kind.target.grid),
        left,
        right,
        (len(rows.weight), kind.columns, first, stride, rank, update_form),
        numbers(kind.grid, kind.form),
        numbers(kind.target.grid, kind.target.form),
    )
    return None if sums is None else Sums(*sums)


def shape(
    codes: Array, steps: Array, wanted: Array, directions: Array, gains: Array, top: int, out: Array
) -> bool:
    """Do what `shaping.Shaper` does to the columns of a block, float32 (columns, rows); tell whether it was done."""
    columns, rows = codes.shape
    count = directions.shape[1]
    if compiled is None or not count or rows < 2:  # NumPy sums a single column of numbers in another order
        return False
    compiled.shape(codes, steps, wanted, directions, gains, out, (columns, rows, count), float(top))
    return True


def fit(
    directions: Array, rest: Array, codes: Array, wanted: Array, ridge: float
) -> tuple[Array, Array] | None:
    """Do what `shaped.Fit.changes` does; None where it is not done."""
    size, count, groups = directions.shape
    if compiled is None or not count:
        return None
    scales, biases = (np.empty((len(codes), groups)) for _ in range(2))
    compiled.fit(
        np.ascontiguousarray(directions.transpose(2, 0, 1)),
        np.ascontiguousarray(rest.T),
        np.ascontiguousarray(codes, np.float32),
        np.ascontiguousarray(wanted, np.float32),
        scales,
        biases,
        (len(codes), groups, size, count),
        ridge,
    )
    return scales, biases
