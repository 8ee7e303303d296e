"""Rows of a weight, the changes to them, and blocks of them, by row or as (group size, groups), in arrays that are used again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .arithmetic import Array, Format, Thresholds, Update
from .grids import AnyGrid
from .policy import WriteTarget


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Whole rows of a weight as they are stored."""

    weight: Array  # plain numbers (rows, columns), or uint32 (rows, words)
    scales: Array | None = None  # (rows, groups), None for plain numbers
    biases: Array | None = None

    def __getitem__(self, part: slice) -> StoredRows:
        scales, biases = (None if array is None else array[part] for array in (self.scales, self.biases))
        return StoredRows(self.weight[part], scales, biases)


@dataclass(frozen=True, slots=True)
class RowsFormat:
    """How the rows of a module are stored, before and after."""

    columns: int
    form: Format
    plain: Format  # format of the sum's
    grid: AnyGrid | None  # how the base's are quantised, None for plain numbers
    target: WriteTarget
    once: bool = False  # round DoRA's result only; do not round LoRA's update to `form`, as PEFT
    aware: AnyGrid | None = None  # the grid that the update was trained through, None for none

    @property
    def group(self) -> int | None:
        """The group size of blocks laid out in groups, None for blocks laid out in rows."""
        if self.target.grid is not None:
            return self.target.grid.group_size
        return self.grid.group_size if self.grid is not None else None


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a module, ready for its blocks."""

    update: Update
    magnitudes: Array | None = None
    thresholds: Thresholds | None = None
    constant: bool = False  # the update is the same for all numbers of a group
    _tiles: dict[tuple[int, int], Array] = field(default_factory=dict)

    def tiles(self, group: int, rows: int) -> Array:
        """Return the right factor as `tile` lays it out, made once."""
        if (group, rows) not in self._tiles:
            self._tiles[group, rows] = tile(self.update.right, group, rows)
        return self._tiles[group, rows]


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


# Numbers computed at a time: 1 MiB in float32; about five such arrays are at work. Larger blocks leave the
# cache, smaller ones have threads wait for the interpreter more often than they compute.
BLOCK = 1 << 18
_TILES = 8 << 20


class Arrays:
    """Arrays that a thread uses again and again; asking the system for fresh ones costs more than computing."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def floats(self, shape: tuple[int, int], *names: str) -> list[Array]:
        """Return a float32 array of a shape for each name, with old contents."""
        return [self.words(shape, name).view(np.float32) for name in names]

    def bytes(self, size: int, name: str) -> Array:
        """Return an array of `size` bytes, with old contents."""
        return self.words((1, -(-size // 4)), name).reshape(-1).view(np.uint8)[:size]

    def words(self, shape: tuple[int, int], name: str) -> Array:
        """Return a uint32 array of a shape, with old contents."""
        size = shape[0] * shape[1]
        held = self._arrays.get(name)
        if held is None or held.size < size:
            held = self._arrays[name] = np.empty(max(size, BLOCK), np.uint32)
        return held[:size].reshape(shape)


def rows_per_block(columns: int, rank: int = 0) -> int:
    """Return how many rows of a module make a block; fewer where a large rank would make the tiles large."""
    numbers = min(BLOCK, max(_TILES // rank, 1)) if rank else BLOCK
    return max(1, numbers // columns)
