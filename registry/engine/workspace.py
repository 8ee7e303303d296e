"""Arrays that a thread uses again and again, and how large a block is."""

from __future__ import annotations

import numpy as np

from .arithmetic import Array

BLOCK = 1 << 18
"""Numbers computed at a time: 1 MiB in float32; about five such arrays are at work.  Larger blocks leave the
cache, smaller ones have threads wait for the interpreter more often than they compute."""

_TILES = 8 << 20


class Workspace:
    """Arrays that a thread uses again and again; asking the system for fresh ones costs more than computing."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def floats(self, shape: tuple[int, int], *names: str) -> list[Array]:
        """Return a float32 array of a shape for each name, with old contents."""
        return [self._take(name, shape).view(np.float32) for name in names]

    def words(self, shape: tuple[int, int], name: str) -> Array:
        """Return a uint32 array of a shape, with old contents."""
        return self._take(name, shape)

    def bytes(self, size: int, name: str) -> Array:
        """Return an array of `size` bytes, with old contents."""
        return self._take(name, (1, -(-size // 4))).reshape(-1).view(np.uint8)[:size]

    def _take(self, name: str, shape: tuple[int, int]) -> Array:
        size = shape[0] * shape[1]
        held = self._arrays.get(name)
        if held is None or held.size < size:
            held = self._arrays[name] = np.empty(max(size, BLOCK), np.uint32)
        return held[:size].reshape(shape)


def rows_per_block(columns: int, rank: int = 0) -> int:
    """Return how many rows of a module make a block; fewer where a large rank would make the tiles large."""
    numbers = min(BLOCK, max(_TILES // rank, 1)) if rank else BLOCK
    return max(1, numbers // columns)
