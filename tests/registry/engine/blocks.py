"""Blocks of rows for the tests of the arithmetic."""

from __future__ import annotations

import numpy as np

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import F32, Array, Update
from fusery.registry.engine.blocks import fuse_rows
from fusery.registry.engine.fidelity import Sums
from fusery.registry.engine.rows import Arrays, Change, RowsFormat, StoredRows


def room(kind: RowsFormat, count: int) -> StoredRows:
    grid = kind.target.grid
    if grid is None:
        return StoredRows(np.zeros((count, kind.columns), kind.target.form.stored))
    groups = (count, kind.columns // grid.group_size)
    biases = np.zeros(groups, grid.stored) if isinstance(grid, Grid) else None
    words = np.zeros((count, grid.words(kind.columns)), np.uint32)
    return StoredRows(words, np.zeros(groups, grid.stored), biases)


def fused(
    rows: StoredRows, kind: RowsFormat, change: Change | None, first: int = 0
) -> tuple[StoredRows, Sums]:
    out = room(kind, len(rows.weight))
    return out, fuse_rows(rows, kind, change, first, out, Arrays())


def update(a: Array, b: Array, scale: float = 1.0) -> Update:
    return Update.of(a, b, F32, F32, scale, embedding=False)


def share(sums: Sums) -> float:
    return sums.inner / sums.intended
