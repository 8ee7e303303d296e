"""The two ways to lay out a block, and how large one is."""

from __future__ import annotations

import numpy as np

from fusery.registry.engine.layouts import tile
from fusery.registry.engine.workspace import rows_per_block


def test_blocks_of_a_large_rank_are_smaller_so_that_tiles_stay_small() -> None:
    for rank, columns in ((8, 896), (64, 896), (256, 4096), (1024, 4096), (8, 1 << 18)):
        rows = rows_per_block(columns, rank)
        assert rows >= 1
        assert rank * rows * columns <= max(8 << 20, rank * columns)
    right = np.arange(2 * 128, dtype=np.float32).reshape(2, 128)
    tiles = tile(right, 64, 3)
    assert tiles.shape == (2, 64, 6)
    assert tiles[1, 5].tolist() == [128 + 5, 128 + 64 + 5] * 3
