"""The two ways to lay out a block, and how large one is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.arithmetic import BF16, F16, F32, FORMATS, Format, encode
from fusery.registry.engine.layouts import store_groups, tile, to_groups, to_rows
from fusery.registry.engine.workspace import Workspace, rows_per_block

sizes = st.sampled_from([16, 32, 64, 128])


@given(size=sizes, rows=st.integers(1, 5), groups=st.integers(1, 4))
def test_rows_come_back_from_groups(size: int, rows: int, groups: int) -> None:
    values = np.arange(rows * groups * size, dtype=np.float32).reshape(rows, groups * size)
    laid, back = np.empty((size, rows * groups), np.float32), np.empty_like(values)
    to_groups(values, laid)
    # A column is a group, and the groups of a row follow one another.
    assert laid[3, groups if rows > 1 else 0] == values[1 if rows > 1 else 0, 3]
    to_rows(laid, back)
    np.testing.assert_array_equal(back, values)


@given(
    form=st.sampled_from([BF16, F16, F32]),
    size=sizes,
    groups=st.integers(1, 9),
    seed=st.integers(0, 99),
    exact=st.booleans(),
)
def test_groups_are_stored_as_rows(form: Format, size: int, groups: int, seed: int, exact: bool) -> None:
    values = np.random.default_rng(seed).standard_normal((groups, size)).astype(np.float32)
    stored = encode(values, form)
    held = stored.view(np.float16).astype(np.float32) if form is F16 else values
    if form is BF16:
        held = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    out = np.empty((groups, size), form.stored)
    store_groups(np.ascontiguousarray(held.T), form, out, Workspace(), exact=exact)
    np.testing.assert_array_equal(out, stored)


def test_a_workspace_gives_the_same_memory_again() -> None:
    work = Workspace()
    for form in FORMATS.values():
        first = work.bytes(1000, "out").view(form.stored)
        assert np.shares_memory(first, work.bytes(10, "out"))
        assert not np.shares_memory(first, work.bytes(1000, "other"))


def test_blocks_of_a_large_rank_are_smaller_so_that_tiles_stay_small() -> None:
    for rank, columns in ((8, 896), (64, 896), (256, 4096), (1024, 4096), (8, 1 << 18)):
        rows = rows_per_block(columns, rank)
        assert rows >= 1
        assert rank * rows * columns <= max(8 << 20, rank * columns)
    right = np.arange(2 * 128, dtype=np.float32).reshape(2, 128)
    tiles = tile(right, 64, 3)
    assert tiles.shape == (2, 64, 6)
    assert tiles[1, 5].tolist() == [128 + 5, 128 + 64 + 5] * 3
