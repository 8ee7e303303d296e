"""A block of scattered rows of a quantised module, rounded by a `shaping.Shaper`: unpack, round, pack, measure."""

from __future__ import annotations

import numpy as np

from .affine import Grid, dequantize, pack, unpack
from .arithmetic import Array, Update, decode, multiply_out
from .blocks import Kind, NotFiniteError, Rows
from .fidelity import Sums, measure
from .layouts import to_groups, to_rows
from .shaping import Shaper


def shape_rows(
    rows: Rows, kind: Kind, update: Update, shaper: Shaper, chosen: Array, first: int, out: Rows
) -> Sums:
    """Move the codes of some rows by the update, and return what they retain.

    Args:
        rows: rows of the base that lie one behind the other.
        kind: how they are stored.
        update: of the module.
        shaper: of the module.
        chosen: which rows of the module.
        first: number of the first of `rows` in the module.
        out: like `rows`; the chosen ones are written.

    Raises:
        NotFiniteError: a scale or the update is not finite.
    """
    grid = kind.grid
    assert isinstance(grid, Grid) and rows.scales is not None and rows.biases is not None
    some = chosen - first
    scales, biases = (decode(part[some], grid.form) for part in (rows.scales, rows.biases))
    old = _codes(rows.weight[some], grid)
    delta, scratch = (np.empty((len(some), kind.columns), np.float32) for _ in range(2))
    multiply_out(update.left[:, chosen, None], update.right[:, None, :], delta, scratch)
    if not (np.isfinite(scales).all() and np.isfinite(biases).all() and np.isfinite(delta).all()):
        raise NotFiniteError
    steps = np.repeat(scales, grid.group_size, axis=1)
    wanted, steps = np.where(steps == 0, np.float32(0), delta), np.where(steps == 0, np.float32(1), steps)
    plain = np.empty_like(delta)
    to_rows(old.view(np.int32).astype(np.float32), plain)
    new = _as_codes(shaper.round(plain, steps, wanted, chosen, grid.top), grid)
    out.weight[some] = pack(new, grid).reshape(len(some), -1)
    return _retained(old, new, scales.reshape(-1), biases.reshape(-1), delta, grid)


def _codes(words: Array, grid: Grid) -> Array:
    words = np.ascontiguousarray(words).reshape(-1, grid.words_per_group)
    codes = np.empty((grid.group_size, len(words)), np.uint32)
    unpack(words, grid, codes)
    return codes


def _as_codes(values: Array, grid: Grid) -> Array:
    codes = np.empty((grid.group_size, values.size // grid.group_size), np.float32)
    to_groups(np.ascontiguousarray(values), codes)
    return codes.astype(np.int32).view(np.uint32)


def _retained(old: Array, new: Array, scales: Array, biases: Array, delta: Array, grid: Grid) -> Sums:
    before, after, intended, scratch = (np.empty(old.shape, np.float32) for _ in range(4))
    dequantize(old, scales, biases, grid.form, before, scratch, exact=True)
    dequantize(new, scales, biases, grid.form, after, scratch, exact=True)
    np.subtract(after, before, out=after)
    to_groups(delta, intended)
    sums = measure(after, intended, scratch, exact=False)
    return sums if sums.finite else measure(after, intended, scratch, exact=True)
