"""The arithmetic of one block of rows of one module: read, add the update, round, write, measure.

A block is small enough to stay in the processor's cache through some forty passes.  Each is computed the fast way,
and once more the exact way where the fast one left the range in which it is right; the result is the same as if
everything had been computed the exact way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .affine import Grid, Packed, dequantize, pack, quantize, unpack
from .arithmetic import (
    F16,
    F32,
    Array,
    Format,
    Update,
    decode,
    low_halves,
    multiply_out,
    narrow,
    round_sum,
    widen,
)
from .fidelity import Sums, measure

BLOCK = 1 << 18
"""Numbers computed at a time: 1 MiB in float32; about five such arrays are at work.  Larger blocks leave the
cache, smaller ones have threads wait for the interpreter more often than they compute."""

_TILES = 8 << 20


class NotFiniteError(ValueError):
    """A quantised module would have to hold a NaN or an infinity."""


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


def tile(right: Array, grid: Grid, rows: int) -> Array:
    """Return the right factor laid out like `rows` quantised rows: (rank, group size, rows * groups of a row)."""
    rank, columns = right.shape
    groups = columns // grid.group_size
    tiles = np.empty((rank, grid.group_size, rows, groups), np.float32)
    tiles[...] = right.reshape(rank, groups, grid.group_size).transpose(0, 2, 1)[:, :, None, :]
    return tiles.reshape(rank, grid.group_size, rows * groups)


def fuse_dense(stored: Array, form: Format, update: Update, first: int, out: Array, work: Workspace) -> Sums:
    """Write `weight + update` for a block of rows of a dense module.

    Args:
        stored: numbers of the weight as stored (rows, columns).
        form: their format.
        update: of the whole module.
        first: which row of the module the block begins with.
        out: like `stored`.
        work: the thread's arrays.
    """
    sums, sound = _fuse_dense(stored, form, update, first, out, work, exact=update.needs_exact(form))
    return sums if sound else _fuse_dense(stored, form, update, first, out, work, exact=True)[0]


def _fuse_dense(
    stored: Array, form: Format, update: Update, first: int, out: Array, work: Workspace, *, exact: bool
) -> tuple[Sums, bool]:
    delta, base, new, scratch = work.floats(stored.shape, "delta", "base", "new", "scratch")
    left = update.left[:, first : first + len(stored), None]
    multiply_out(left, update.right[:, None, :], delta, scratch)
    update.round_to(delta, form, scratch, new, exact=exact)
    widen(stored, form, base, exact=exact)
    np.add(base, new, out=new)
    round_sum(new, form, scratch, new, exact=exact)
    narrow(new, form, scratch, out, exact=exact)
    sound = form is not F16 or float(max(new.max(), -new.min())) <= F16.limit
    np.subtract(new, base, out=new)
    sums = measure(new, delta, scratch, exact=exact)
    return sums, exact or (sound and sums.finite)


@dataclass(frozen=True, slots=True)
class GridUpdate:
    """An update of a quantised module.

    Attributes:
        update: the factors.
        tiles: the right one as `tile` lays it out.
    """

    update: Update
    tiles: Array


def dequantize_rows(packed: Packed, grid: Grid, out: Array, work: Workspace) -> None:
    """Write a block of quantised rows as plain numbers, stored in the grid's format, to `out` (groups, group size)."""
    shape = (grid.group_size, len(packed.words))
    values, scratch = work.floats(shape, "base", "scratch")
    exact = _dequantize(packed, grid, values, scratch, work, exact=False)
    _store(values, grid.form, out, work, exact=exact)


def fuse_dequantized(
    packed: Packed, grid: Grid, change: GridUpdate, first: int, out: Array, work: Workspace
) -> Sums:
    """Write `dequantised weight + update` for a block of rows.

    Args:
        packed: the rows.
        grid: how they are quantised.
        change: of the whole module.
        first: which row of the module the block begins with.
        out: stored numbers (groups, group size).
        work: the thread's arrays.
    """
    delta, base, new, scratch = _arrays(packed, grid, work)
    exact = _add(packed, grid, change, first, work)
    _store(new, grid.form, out, work, exact=exact)
    return _measure(new, base, delta, scratch)


def requantize(
    packed: Packed, grid: Grid, change: GridUpdate, first: int, work: Workspace
) -> tuple[Packed, Sums]:
    """Return `dequantised weight + update`, quantised again with fresh scales, for a block of rows.

    Raises:
        NotFiniteError: the sum holds a NaN or an infinity, for which quantisation has no meaning.
    """
    delta, base, new, scratch = _arrays(packed, grid, work)
    _add(packed, grid, change, first, work)
    codes = work.words(new.shape, "codes")
    scales, biases = quantize(new, grid, scratch, codes)
    fast = grid.fast(scales, biases)
    if not fast and not (np.isfinite(scales).all() and np.isfinite(biases).all()):
        raise NotFiniteError
    stored = [np.empty(scales.shape, grid.form.stored) for _ in range(2)]
    for wide, narrowed in zip((scales, biases), stored, strict=True):
        narrow(wide, grid.form, np.empty_like(wide), narrowed, exact=not fast)
    written = Packed(pack(codes, grid), *stored)
    dequantize(codes, scales, biases, grid.form, new, scratch, exact=not fast)
    return written, _measure(new, base, delta, scratch)


def _arrays(packed: Packed, grid: Grid, work: Workspace) -> list[Array]:
    return work.floats((grid.group_size, len(packed.words)), "delta", "base", "new", "scratch")


def _measure(new: Array, base: Array, delta: Array, scratch: Array) -> Sums:
    np.subtract(new, base, out=new)
    sums = measure(new, delta, scratch, exact=False)
    return sums if sums.finite else measure(new, delta, scratch, exact=True)


def _add(packed: Packed, grid: Grid, change: GridUpdate, first: int, work: Workspace) -> bool:
    """Fill `delta`, `base` and `new = base + rounded delta`; return whether the exact way was taken.

    The bounds of the update and of the scales together bound the sum, so it needs no look of its own.
    """
    delta, base, new, scratch = _arrays(packed, grid, work)
    update, groups = change.update, len(packed.words)
    per_row = update.right.shape[1] // grid.group_size
    left = np.repeat(update.left[:, first : first + groups // per_row], per_row, axis=1)
    multiply_out(left, change.tiles[:, :, :groups], delta, scratch)
    exact = _dequantize(packed, grid, base, scratch, work, exact=update.needs_exact(grid.form))
    update.round_to(delta, grid.form, scratch, new, exact=exact)
    np.add(base, new, out=new)
    round_sum(new, grid.form, scratch, new, exact=exact)
    return exact


def _dequantize(
    packed: Packed, grid: Grid, out: Array, scratch: Array, work: Workspace, *, exact: bool
) -> bool:
    """Fill `out` with the plain numbers of a block; return whether the exact way was taken."""
    codes = work.words(out.shape, "codes")
    unpack(packed.words, grid, codes)
    scales, biases = decode(packed.scales, grid.form), decode(packed.biases, grid.form)
    exact = exact or not grid.fast(scales, biases)
    dequantize(codes, scales, biases, grid.form, out, scratch, exact=exact)
    return exact


def _store(values: Array, form: Format, out: Array, work: Workspace, *, exact: bool) -> None:
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
