"""The arithmetic of one block of rows of one module: read, add the update, round, write, measure.

A block is small enough to stay in the processor's cache through some forty passes.  Each is computed the fast way,
and once more the exact way where the fast one left the range in which it is right; the result is the same as if
everything had been computed the exact way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kernel
from .affine import Grid, dequantize, pack, quantize, unpack
from .arithmetic import (
    F16,
    F32,
    Array,
    Format,
    Update,
    decode,
    encode,
    multiply_out,
    narrow,
    round_any,
    round_sum,
    widen,
)
from .dither import Thresholds, round_at_random, round_steps
from .fidelity import Sums, measure, measure_exactly
from .grids import AnyGrid
from .layouts import store_groups, to_groups, to_rows
from .magnitude import intended_change, rescale, row_factors, row_norms, spare_size
from .microscaling import FloatGrid
from .rows import Change, Kind, NotFiniteError, Rows
from .workspace import Workspace, rows_per_block
from .yardstick import intended_through, measure_on, scales_of


@dataclass(frozen=True, slots=True)
class _Block:
    """The arrays of a block: the base's numbers, the new ones, and the change that was intended."""

    base: Array
    new: Array
    delta: Array
    scratch: Array

    @classmethod
    def take(cls, shape: tuple[int, int], work: Workspace) -> _Block:
        return cls(*work.floats(shape, "base", "new", "delta", "scratch"))

    def measure(self, *, grouped: bool, strict: bool) -> Sums:
        """Return what was retained; `new` holds what was written, and is overwritten.

        Raises:
            NotFiniteError: with `strict`, if a number is not finite.
        """
        np.subtract(self.new, self.base, out=self.new)
        sums = measure(self.new, self.delta, self.base, self.scratch, grouped=grouped)
        if sums.finite:
            return sums
        if strict and not (np.isfinite(self.new).all() and np.isfinite(self.delta).all()):
            raise NotFiniteError
        return measure_exactly(self.new, self.delta, self.base)


def fuse_rows(rows: Rows, kind: Kind, change: Change | None, first: int, out: Rows, work: Workspace) -> Sums:
    """Write `weight + update` for a block of whole rows of a module.

    Args:
        rows: of the base.
        kind: how they are stored, before and after.
        change: of the module, or of the expert that the rows belong to; None to write them as they are.
        first: number of the first row in the module or expert.
        out: where to write; scales and biases only where they change.
        work: the thread's arrays.

    Raises:
        NotFiniteError: a NaN or an infinity would have to be quantised.
    """
    if change is not None and change.constant:
        return _move_biases(rows, kind, change, first, out, work)
    if kernel.handles(kind, change):
        sums = kernel.fuse_rows(rows, kind, change, first, out)
        if sums is not None:
            return sums
    if kind.group is None and change is not None and change.magnitudes is None and kind.aware is None:
        return fuse_dense(rows.weight, kind.form, change.update, first, out.weight, work)
    count, group = len(rows.weight), kind.group
    shape = (count, kind.columns) if group is None else (group, count * kind.columns // group)
    block = _Block.take(shape, work)
    if change is None:
        exact = _read(rows, kind, block.base, work, exact=False)
        np.copyto(block.new, block.base)
        np.copyto(block.delta, np.float32(0))
    elif change.magnitudes is not None:
        _rescaled(rows, kind, change, first, block, work)
        exact = True
    elif group is None:
        _added_to_plain(rows, kind, change, first, block)
        exact = True
    else:
        exact = _added(rows, kind, change, first, block, work)
    if kind.target.form is not kind.plain and not kind.target.dither:
        round_any(block.new, kind.target.form, block.scratch, block.new, exact=True)
    intended = None
    if kind.aware is not None and change is not None:
        intended = intended_through(kind.aware, kind, block.new, block.base, block.delta)
    _write(rows, kind, change, first, block, out, work, exact=exact)
    if kind.aware is not None and intended is not None:
        measure_on(kind.aware, kind, intended, block.base, block.delta)
    return (
        block.measure(grouped=group is not None, strict=kind.target.dither) if change is not None else Sums()
    )


def fuse_dense(stored: Array, form: Format, update: Update, first: int, out: Array, work: Workspace) -> Sums:
    """Write `weight + update` for a block of rows of plain numbers.

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
    block = _Block.take((len(stored), stored.shape[1]), work)
    _multiply_rows(update, first, block)
    update.round_to(block.delta, form, block.scratch, block.new, exact=exact)
    widen(stored, form, block.base, exact=exact)
    np.add(block.base, block.new, out=block.new)
    round_sum(block.new, form, block.scratch, block.new, exact=exact)
    narrow(block.new, form, block.scratch, out, exact=exact)
    sound = form is not F16 or float(max(block.new.max(), -block.new.min())) <= F16.limit
    np.subtract(block.new, block.base, out=block.new)
    if exact:
        return measure_exactly(block.new, block.delta, block.base), True
    sums = measure(block.new, block.delta, block.base, block.scratch, grouped=False)
    return sums, exact or (sound and sums.finite)


def _multiply_rows(update: Update, first: int, block: _Block) -> None:
    left = update.left[:, first : first + len(block.delta), None]
    multiply_out(left, update.right[:, None, :], block.delta, block.scratch)


def _added(
    rows: Rows,
    kind: Kind,
    change: Change,
    first: int,
    block: _Block,
    work: Workspace,
    *,
    exact: bool = False,
) -> bool:
    """Fill a block in groups: `base`, `delta`, and `new` as their rounded sum; return whether that was the exact way.

    The bounds of the update and of the scales together bound the sum, so it needs no look of its own.
    """
    update, groups = change.update, block.base.shape[1]
    room = max(rows_per_block(kind.columns, len(update.left)), len(rows.weight))
    tiles = change.tiles(len(block.base), room)
    left = np.repeat(update.left[:, first : first + len(rows.weight)], groups // len(rows.weight), axis=1)
    multiply_out(left, tiles[:, :, :groups], block.delta, block.scratch)
    exact = _read(rows, kind, block.base, work, exact=exact or update.needs_exact(kind.form))
    update.round_to(block.delta, kind.form, block.scratch, block.new, exact=exact)
    np.add(block.base, block.new, out=block.new)
    round_sum(block.new, kind.form, block.scratch, block.new, exact=exact)
    return exact


def _added_to_plain(rows: Rows, kind: Kind, change: Change, first: int, block: _Block) -> None:
    """Fill a block in rows, the exact way: `base`, `delta`, and `new` as their rounded sum."""
    np.copyto(block.base, decode(rows.weight, kind.form))
    _multiply_rows(change.update, first, block)
    change.update.round_to(block.delta, kind.form, block.scratch, block.new, exact=True)
    np.add(block.base, block.new, out=block.new)
    round_sum(block.new, kind.form, block.scratch, block.new, exact=True)


def _rescaled(rows: Rows, kind: Kind, change: Change, first: int, block: _Block, work: Workspace) -> None:
    """Fill a block with what DoRA makes of the rows: `new = m / |W + D| * (W + D)`, rounded as `kind` says."""
    assert change.magnitudes is not None
    count, form = len(rows.weight), kind.form
    if kind.group is None:
        _added_to_plain(rows, kind, change, first, block)
        per_row = 0
    else:
        _added(rows, kind, change, first, block, work, exact=True)
        per_row = block.base.shape[1] // count
    lengths = change.magnitudes[first : first + count]
    spare, turned = work.floats((1, spare_size(*block.base.shape)), "spare", "turned")

    def factors(values: Array, of: Format, result: Format) -> Array:
        norms = row_norms(values, of, spare[0], turned[0], per_row=per_row)
        found = row_factors(lengths, norms, result)
        if not np.isfinite(found).all():
            raise NotFiniteError  # a row of zeros has no direction; mlx-lm writes NaN
        return np.repeat(found, per_row) if per_row else found[:, None]

    if not kind.once:
        found = factors(block.new, form, kind.plain)
        rescale(block.new, found, kind.plain, block.scratch, block.new, exact=True)
    np.add(block.base, block.delta, out=block.scratch)
    at_run_time = factors(block.scratch, F32, F32)
    if kind.once:
        rescale(block.scratch, at_run_time, kind.plain, block.scratch, block.new, exact=True)
    intended_change(block.base, block.delta, at_run_time, block.scratch)
    np.copyto(block.delta, block.scratch)


def _move_biases(rows: Rows, kind: Kind, change: Change, first: int, out: Rows, work: Workspace) -> Sums:
    """Add an update that is constant within each group to the biases; codes and scales stay as they are."""
    grid, count = kind.grid, len(rows.weight)
    assert isinstance(grid, Grid) and rows.scales is not None and rows.biases is not None
    assert out.scales is not None and out.biases is not None and change.thresholds is not None
    block = _Block.take((grid.group_size, count * kind.columns // grid.group_size), work)
    _dequantize(rows, grid, block.base, work, exact=True)
    each = change.update.right[:, None, :: grid.group_size]
    moved = np.empty((count, each.shape[2]), np.float32)
    multiply_out(change.update.left[:, first : first + count, None], each, moved, np.empty_like(moved))
    np.copyto(block.delta, moved.reshape(-1))
    np.copyto(out.weight, rows.weight)
    np.copyto(out.scales, rows.scales)
    # To nearest, a group whose update is less than half of what the format tells apart would lose it in every such fuse.
    np.add(moved, decode(rows.biases, grid.form), out=moved)
    chance = change.thresholds.of_groups(first, moved.shape)
    np.copyto(out.biases, encode(round_at_random(moved, grid.form, chance), grid.form))
    _dequantize(out, grid, block.new, work, exact=True)
    return block.measure(grouped=True, strict=True)


def _read(rows: Rows, kind: Kind, out: Array, work: Workspace, *, exact: bool) -> bool:
    """Fill `out` with the plain numbers of a block, laid out in groups; return whether the exact way was taken."""
    grid, group = kind.grid, kind.group
    if grid is not None and grid.group_size == group:
        return _dequantize(rows, grid, out, work, exact=exact)
    if grid is None:
        exact = exact or not _bounded(rows.weight, kind.form)
        plain = decode(rows.weight, kind.form)
    else:
        apart = np.empty(
            (grid.group_size, rows.weight.shape[0] * kind.columns // grid.group_size), np.float32
        )
        exact = _dequantize(rows, grid, apart, work, exact=exact)
        plain = np.empty((len(rows.weight), kind.columns), np.float32)
        to_rows(apart, plain)
    to_groups(plain, out)
    return exact


def _bounded(stored: Array, form: Format) -> bool:
    peak = np.abs(decode(stored, form)).max(initial=0)
    return bool(peak < form.limit * 0.9)  # false for NaN


def _dequantize(rows: Rows, grid: AnyGrid, out: Array, work: Workspace, *, exact: bool) -> bool:
    codes = work.words(out.shape, "codes")
    unpack(_words(rows, grid), grid, codes)
    assert rows.scales is not None
    if not isinstance(grid, Grid):
        grid.dequantize(codes, rows.scales.reshape(-1), out)
        return exact
    assert rows.biases is not None
    scales, biases = (decode(part.reshape(-1), grid.form) for part in (rows.scales, rows.biases))
    exact = exact or not grid.fast(scales, biases)
    dequantize(codes, scales, biases, grid.form, out, work.floats(out.shape, "scratch")[0], exact=exact)
    return exact


def _words(rows: Rows, grid: AnyGrid) -> Array:
    return rows.weight.reshape(-1, grid.words_per_group)


def _write(
    rows: Rows,
    kind: Kind,
    change: Change | None,
    first: int,
    block: _Block,
    out: Rows,
    work: Workspace,
    *,
    exact: bool,
) -> None:
    """Store the new numbers, and set `new` to what the stored ones mean."""
    target = kind.target
    if target.dither:
        assert change is not None and change.thresholds is not None
        _write_dithered(rows, kind, change.thresholds, first, block, out, work)
    elif target.grid is None:
        if kind.group is None:
            np.copyto(out.weight, encode(block.new, target.form))
        else:
            store_groups(block.new, target.form, out.weight.reshape(-1, kind.group), work, exact=exact)
    elif isinstance(target.grid, Grid):
        _write_affine(target.grid, block, out, work)
    else:
        _write_microscaled(target.grid, target.form, block, out, work)


def _write_affine(grid: Grid, block: _Block, out: Rows, work: Workspace) -> None:
    codes = work.words(block.new.shape, "codes")
    scales, biases = quantize(block.new, grid, block.scratch, codes)
    fast = grid.fast(scales, biases)
    if not fast and not (np.isfinite(scales).all() and np.isfinite(biases).all()):
        raise NotFiniteError
    assert out.scales is not None and out.biases is not None
    for wide, stored in ((scales, out.scales), (biases, out.biases)):
        narrow(wide, grid.form, np.empty_like(wide), stored.reshape(-1), exact=not fast)
    np.copyto(_words(out, grid), pack(codes, grid))
    dequantize(codes, scales, biases, grid.form, block.new, block.scratch, exact=not fast)


def _write_microscaled(grid: FloatGrid, form: Format, block: _Block, out: Rows, work: Workspace) -> None:
    assert out.scales is not None
    codes = work.words(block.new.shape, "codes")
    np.copyto(out.scales.reshape(-1), scales_of(grid, block.new, codes, form))
    np.copyto(_words(out, grid), pack(codes, grid))
    grid.dequantize(codes, out.scales.reshape(-1), block.new)


def _write_dithered(
    rows: Rows, kind: Kind, thresholds: Thresholds, first: int, block: _Block, out: Rows, work: Workspace
) -> None:
    """Move the base's codes by the intended change, rounded at random.

    For DoRA the intended change is that of the whole rescaling.
    """
    grid = kind.grid
    assert grid is not None and rows.scales is not None
    codes = work.words(block.new.shape, "codes")
    unpack(_words(rows, grid), grid, codes)
    chance = work.floats(block.new.shape, "chance")[0]
    thresholds.fill(first, len(rows.weight), chance, block.scratch.view(np.uint32))
    if isinstance(grid, Grid):
        scales = decode(rows.scales.reshape(-1), grid.form)
        np.divide(block.delta, scales, out=block.new)
        np.copyto(block.new, np.float32(0), where=scales == 0)
        round_steps(block.new, chance, block.scratch)
        np.copyto(block.scratch, codes.view(np.int32))
        np.add(block.new, block.scratch, out=block.new)
        np.clip(block.new, np.float32(0), np.float32(grid.top), out=block.new)
        np.copyto(codes.view(np.int32), block.new, casting="unsafe")
    else:
        grid.dither(codes, rows.scales.reshape(-1), block.delta, chance)
    np.copyto(_words(out, grid), pack(codes, grid))
    _dequantize(Rows(out.weight, rows.scales, rows.biases), grid, block.new, work, exact=False)
