"""The compiled arithmetic, where it was built: the bits of `blocks` in one pass over the numbers.

It is optional.  An installation without a compiler computes in NumPy, with the same result, at a fifth of the speed;
`fusery doctor` says which it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .affine import Grid
from .arithmetic import Array, Format
from .fidelity import Sums

if TYPE_CHECKING:
    from .rows import Change, Kind, Rows

try:
    from . import _kernel as _compiled
except ImportError:
    compiled: Any = None
else:
    compiled = _compiled
"""The compiled module, or None."""

_FORMS = {"F32": 0, "BF16": 1, "F16": 2}


def handles(kind: Kind, change: Change | None) -> bool:
    """Whether the compiled arithmetic knows a kind of module: LoRA, from plain or affine numbers to plain or affine."""
    known = all(grid is None or isinstance(grid, Grid) for grid in (kind.grid, kind.target.grid))
    plain = kind.aware is None and (change is None or change.magnitudes is None)
    return compiled is not None and known and plain and not kind.target.dither and kind.plain is kind.form


def fuse_rows(rows: Rows, kind: Kind, change: Change | None, first: int, out: Rows) -> Sums | None:
    """Do what `blocks.fuse_rows` does for a kind that is handled; None if a number is not finite."""
    left = right = None
    stride = rank = update_form = 0
    if change is not None:
        left, right = change.update.left, change.update.right
        rank, stride = left.shape
        update_form = _FORMS[change.update.form.name]
    found = compiled.fuse(
        rows.weight,
        *_pair(rows, kind.grid),
        out.weight,
        *_pair(out, kind.target.grid),
        left,
        right,
        (len(rows.weight), kind.columns, first, stride, rank, update_form),
        _numbers(kind.grid, kind.form),
        _numbers(kind.target.grid, kind.target.form),
    )
    return None if found is None else Sums(*found)


def _pair(rows: Rows, grid: Any) -> tuple[Array | None, Array | None]:
    return (rows.scales, rows.biases) if grid is not None else (None, None)


def _numbers(grid: Any, form: Format) -> tuple[int, int, int]:
    return (grid.bits, grid.group_size, _FORMS[form.name]) if grid is not None else (0, 0, _FORMS[form.name])
