"""The arithmetic of one block of rows of a module, small enough to stay in the processor's cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kernel
from .affine import Grid, dequantize, pack, quantize, unpack
from .arithmetic import (
    F32,
    Array,
    Format,
    NotFiniteError,
    Thresholds,
    decode,
    encode,
    multiply_out,
    round_at_random,
    round_steps,
    round_to,
    rounded,
    row_factors,
    row_norms,
    spare_size,
)
from .fidelity import Sums, measure, measure_exactly
from .grids import AnyGrid, requantized
from .rows import Arrays, Change, RowsFormat, StoredRows, rows_per_block, to_groups, to_rows


@dataclass(frozen=True, slots=True)
class _Block:
    """The arrays of a block: the base's numbers, the new ones, and the change that was intended."""

    base: Array
    new: Array
    delta: Array
    scratch: Array

    @classmethod
    def take(cls, shape: tuple[int, int], work: Arrays) -> _Block:
        return cls(*work.floats(shape, "base", "new", "delta", "scratch"))

    def add(self, change: Change, form: Format, *, once: bool = False) -> None:
        if once:
            change.update.round_product(self.delta, self.scratch, self.new)
        else:
            change.update.round_to(self.delta, form, self.scratch, self.new)
        np.add(self.base, self.new, out=self.new)
        round_to(self.new, form, self.scratch, self.new)

    def measure(self, *, grouped: bool, strict: bool) -> Sums:
        """Return what was retained; `new` holds what was written, and is overwritten.  With `strict`, refuse what is not finite."""
        np.subtract(self.new, self.base, out=self.new)
        sums = measure(self.new, self.delta, self.base, self.scratch, grouped=grouped)
        if sums.finite:
            return sums
        if strict and not (np.isfinite(self.new).all() and np.isfinite(self.delta).all()):
            raise NotFiniteError
        return measure_exactly(self.new, self.delta, self.base)


def fuse_rows(
    rows: StoredRows, kind: RowsFormat, change: Change | None, first: int, out: StoredRows, work: Arrays
) -> Sums:
    """Write `weight + update` for a block of whole rows of a module, or of an expert; without a change as they are."""
    if change is not None and change.constant:
        return _move_biases(rows, kind, change, first, out, work)
    if kernel.handles(kind, change):
        sums = kernel.fuse_rows(rows, kind, change, first, out)
        if sums is not None:
            return sums
    count, group, target, aware = len(rows.weight), kind.group, kind.target, kind.aware
    shape = (count, kind.columns) if group is None else (group, count * kind.columns // group)
    block = _Block.take(shape, work)
    _read(rows, kind, block.base, work)
    if change is None:
        np.copyto(block.new, block.base)
        np.copyto(block.delta, np.float32(0))
    else:
        _multiply(rows, kind, change, first, block)
        if change.magnitudes is not None:
            _rescale(kind, change, change.magnitudes[first : first + count], block, work)
        elif not target.dither or aware is not None:
            block.add(change, kind.form, once=kind.once)
    if target.form is not kind.plain and not target.dither:
        np.copyto(block.new, rounded(block.new, target.form))
    intended = None
    if aware is not None and change is not None:
        # The trained model is the sum on the grid: its difference from the stored numbers was intended.
        intended = _on_grid(block.new, kind, aware)
        if not np.isfinite(intended).all():
            raise NotFiniteError
        np.subtract(intended, block.base, out=block.delta)
        if target.grid is None and kind.once:  # write the dequantised numbers
            np.copyto(block.new, intended)
    if target.dither:
        assert change is not None and change.thresholds is not None
        _write_dithered(rows, kind, change.thresholds, first, block, out, work)
    else:
        _write(kind, block, out, work)
    own = kind.grid and (type(kind.grid), kind.grid.bits, kind.grid.group_size)
    if intended is not None and aware is not None and own != (type(aware), aware.bits, aware.group_size):
        # Measured from the base on the grid; a base on a grid of that kind is taken as it is.
        np.copyto(block.base, _on_grid(block.base, kind, aware))
        np.subtract(intended, block.base, out=block.delta)
    return block.measure(grouped=group is not None, strict=target.dither) if change is not None else Sums()


def _multiply(rows: StoredRows, kind: RowsFormat, change: Change, first: int, block: _Block) -> None:
    rank, height = change.update.left.shape
    left = change.update.left[:, first : first + len(rows.weight)]
    if kind.group is None:
        multiply_out(left[:, :, None], change.update.right[:, None, :], block.delta, block.scratch)
        return
    groups = block.base.shape[1]
    tiles = change.tiles(kind.group, min(max(rows_per_block(kind.columns, rank), len(rows.weight)), height))
    left = np.repeat(left, groups // len(rows.weight), axis=1)
    multiply_out(left, tiles[:, :, :groups], block.delta, block.scratch)


def _rescale(kind: RowsFormat, change: Change, lengths: Array, block: _Block, work: Arrays) -> None:
    """Set `new` to what DoRA makes of the rows, `m / |W + D| * (W + D)`, and `delta` to what it intends."""
    # At run time (`DoRALinear.__call__`) D and the norm are in float32.
    block.add(change, kind.form)
    per_row = 0 if kind.group is None else block.base.shape[1] // len(lengths)
    spare, turned = work.floats((1, spare_size(*block.base.shape)), "spare", "turned")

    def factors(values: Array, of: Format, result: Format) -> Array:
        norms = row_norms(values, of, spare[0], turned[0], per_row=per_row)
        scale_factors = row_factors(lengths, norms, result)
        if not np.isfinite(scale_factors).all():
            raise NotFiniteError  # a row of zeros has no direction; mlx-lm writes NaN
        return np.repeat(scale_factors, per_row) if per_row else scale_factors[:, None]

    if not kind.once:
        np.multiply(block.new, factors(block.new, kind.form, kind.plain), out=block.new)
        round_to(block.new, kind.plain, block.scratch, block.new)
    np.add(block.base, block.delta, out=block.delta)
    np.multiply(block.delta, factors(block.delta, F32, F32), out=block.delta)
    if kind.once:
        round_to(block.delta, kind.plain, block.scratch, block.new)
    np.subtract(block.delta, block.base, out=block.delta)


def _move_biases(
    rows: StoredRows, kind: RowsFormat, change: Change, first: int, out: StoredRows, work: Arrays
) -> Sums:
    """Add an update that is constant within each group to the biases; codes and scales stay as they are."""
    grid, count = kind.grid, len(rows.weight)
    assert isinstance(grid, Grid) and rows.scales is not None and rows.biases is not None
    assert out.scales is not None and out.biases is not None and change.thresholds is not None
    block = _Block.take((grid.group_size, count * kind.columns // grid.group_size), work)
    _dequantize(rows, grid, block.base, work)
    right = change.update.right[:, None, :: grid.group_size]
    moved = np.empty((count, right.shape[2]), np.float32)
    multiply_out(change.update.left[:, first : first + count, None], right, moved, np.empty_like(moved))
    np.copyto(block.delta, moved.reshape(-1))
    np.copyto(out.weight, rows.weight)
    np.copyto(out.scales, rows.scales)
    # To nearest, a group whose update is less than half of what the format tells apart would lose it in every such fuse.
    np.add(moved, decode(rows.biases, grid.form), out=moved)
    chance = change.thresholds.of_groups(first, moved.shape)
    np.copyto(out.biases, encode(round_at_random(moved, grid.form, chance), grid.form))
    _dequantize(out, grid, block.new, work)
    return block.measure(grouped=True, strict=True)


def _read(rows: StoredRows, kind: RowsFormat, out: Array, work: Arrays) -> None:
    grid, group = kind.grid, kind.group
    if grid is not None and grid.group_size == group:
        _dequantize(rows, grid, out, work)
        return
    if grid is None:
        plain = decode(rows.weight, kind.form)
    else:
        apart = np.empty((grid.group_size, len(rows.weight) * kind.columns // grid.group_size), np.float32)
        _dequantize(rows, grid, apart, work)
        plain = np.empty((len(rows.weight), kind.columns), np.float32)
        to_rows(apart, plain)
    if group is None:
        np.copyto(out, plain)
    else:
        to_groups(plain, out)


def _dequantize(rows: StoredRows, grid: AnyGrid, out: Array, work: Arrays) -> None:
    codes = work.words(out.shape, "codes")
    unpack(_words(rows, grid), grid, codes)
    assert rows.scales is not None
    if not isinstance(grid, Grid):
        grid.dequantize(codes, rows.scales.reshape(-1), out)
        return
    assert rows.biases is not None
    scales, biases = (decode(part.reshape(-1), grid.form) for part in (rows.scales, rows.biases))
    dequantize(codes, scales, biases, grid.form, out, work.floats(out.shape, "scratch")[0])


def _words(rows: StoredRows, grid: AnyGrid) -> Array:
    return rows.weight.reshape(-1, grid.words_per_group)


def _write(kind: RowsFormat, block: _Block, out: StoredRows, work: Arrays) -> None:
    grid, form = kind.target.grid, kind.target.form
    if grid is None:
        stored = encode(block.new, form)
        np.copyto(out.weight, stored if kind.group is None else stored.T.reshape(out.weight.shape))
        return
    codes = work.words(block.new.shape, "codes")
    assert out.scales is not None
    if isinstance(grid, Grid):
        scales, biases = quantize(block.new, grid, block.scratch, codes)
        if not (np.isfinite(scales).all() and np.isfinite(biases).all()):
            raise NotFiniteError
        assert out.biases is not None
        np.copyto(out.scales.reshape(-1), encode(scales, grid.form))
        np.copyto(out.biases.reshape(-1), encode(biases, grid.form))
        dequantize(codes, scales, biases, grid.form, block.new, block.scratch)
    else:
        np.copyto(out.scales.reshape(-1), grid.quantize(block.new, codes, form))
        grid.dequantize(codes, out.scales.reshape(-1), block.new)
    np.copyto(_words(out, grid), pack(codes, grid))


def _write_dithered(
    rows: StoredRows,
    kind: RowsFormat,
    thresholds: Thresholds,
    first: int,
    block: _Block,
    out: StoredRows,
    work: Arrays,
) -> None:
    """Move the base's codes by the intended change, rounded at random; for DoRA that of the whole rescaling."""
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
    _dequantize(StoredRows(out.weight, rows.scales, rows.biases), grid, block.new, work)


def _on_grid(values: Array, kind: RowsFormat, grid: AnyGrid) -> Array:
    """Return the numbers of a block, laid out as they are, quantised to a grid and back."""
    rows = np.empty((values.size // kind.columns, kind.columns), np.float32)
    groups = np.empty((grid.group_size, values.size // grid.group_size), np.float32)
    if kind.group is None:
        np.copyto(rows, values)
    else:
        to_rows(values, rows)
    to_groups(rows, groups)
    to_rows(requantized(groups, grid, kind.target.form), rows)
    if kind.group is None:
        return rows
    regrouped = np.empty_like(values)
    to_groups(rows, regrouped)
    return regrouped
