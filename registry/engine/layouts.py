"""Two ways to lay out a block of rows: row by row, and with the groups of a grid side by side.

In the second, an array has the shape (group size, groups): scales and biases, one per column, meet whole vectors.  The
groups of a row follow one another, the rows too.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import F32, Array, Format, low_halves
from .workspace import Workspace


def to_groups(rows: Array, out: Array) -> None:
    """Write (rows, columns) to `out` (group size, rows * groups of a row)."""
    size = len(out)
    np.copyto(out, rows.reshape(-1, size).T)


def to_rows(groups: Array, out: Array) -> None:
    """Write (group size, groups) to `out` (rows, columns)."""
    np.copyto(out.reshape(-1, len(groups)), groups.T)


def tile(right: Array, size: int, rows: int) -> Array:
    """Return a right factor (rank, columns) laid out like `rows` rows in groups of `size`: (rank, size, groups)."""
    rank, columns = right.shape
    groups = columns // size
    tiles = np.empty((rank, size, rows, groups), np.float32)
    tiles[...] = right.reshape(rank, groups, size).transpose(0, 2, 1)[:, :, None, :]
    return tiles.reshape(rank, size, rows * groups)


def constant_in_groups(right: Array, size: int) -> bool:
    """Tell whether a right factor (rank, columns) has equal numbers within each group of `size` columns, to the bit."""
    groups = right.reshape(len(right), -1, size)
    return bool((groups == groups[:, :, :1]).all())


def store_groups(values: Array, form: Format, out: Array, work: Workspace, *, exact: bool) -> None:
    """Store (group size, groups) numbers in rows, `out` (groups, group size).

    Four 16-bit numbers of a column are put together first: moving 64 bits at a time, the transposition takes a
    quarter of the time.
    """
    if form is F32:
        np.copyto(out, values.T)
        return
    size, groups = values.shape
    bits = work.words(values.shape, "codes")
    low_halves(values, form, bits, exact=exact)
    pairs = bits.reshape(size // 2, 2, groups)
    np.left_shift(pairs[:, 1], 16, out=pairs[:, 1])
    np.bitwise_or(pairs[:, 0], pairs[:, 1], out=pairs[:, 0])
    quads = pairs[:, 0].reshape(size // 4, 2, groups)
    wide = work.words((size // 4, 2 * groups), "scratch").view(np.uint64)
    low = work.words((size // 4, 2 * groups), "wide").view(np.uint64)
    np.copyto(wide, quads[:, 1])
    np.left_shift(wide, 32, out=wide)
    np.copyto(low, quads[:, 0])
    np.bitwise_or(wide, low, out=wide)
    np.copyto(out.view(np.uint64), wide.T)
