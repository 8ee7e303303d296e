"""A block of scattered rows of a quantised module, rounded by a `shaping.Shaper`: unpack, round, pack, measure."""

from __future__ import annotations

import numpy as np

from fusery.storage.errors import FormatError

from .affine import Grid, dequantize, fit, pack, unpack
from .arithmetic import Array, Update, decode, encode, multiply_out, round_sum
from .calibration import Stored
from .fidelity import Sums, measure, measure_exactly
from .fitting import MOST, Fit
from .layouts import to_groups, to_rows
from .rows import Kind, NotFiniteError, Rows
from .shaping import Shaper

MOST_LEARNED = 1.5
"""Steps of the grid by which what was learned may move a number from where the fit has it, the rounding to 16 bits included."""


def shape_rows(
    rows: Rows,
    kind: Kind,
    update: Update,
    shaper: Shaper,
    chosen: Array,
    first: int,
    out: Rows,
    fitting: Fit | None = None,
    learned: Stored | None = None,
) -> Sums:
    """Round the sum of some rows and their update, and return what they retain.

    On the base's own grid its codes move, and with `fitting` scales and biases a little then; on a finer one the scales are
    those that the sum would be given anyway.

    Args:
        rows: rows of the base that lie one behind the other.
        kind: how they are stored.
        update: of the module.
        shaper: of the module.
        chosen: which rows of the module.
        first: number of the first of `rows` in the module.
        out: like `rows`; the chosen ones are written.
        fitting: of the module, where its scales and biases are written too.
        learned: of all rows of the module, what is written instead of those that were fitted.

    Raises:
        NotFiniteError: a scale or the update is not finite, or what rounding makes of it.
        FormatError: what was learned is not of this fuse.
    """
    grid, target = kind.grid, kind.target.grid
    assert isinstance(grid, Grid) and isinstance(target, Grid) and rows.scales is not None
    some = chosen - first
    delta, scratch = (np.empty((len(some), kind.columns), np.float32) for _ in range(2))
    multiply_out(update.left[:, chosen, None], update.right[:, None, :], delta, scratch)
    old = _codes(rows.weight[some], grid)
    before, intended = np.empty(old.shape, np.float32), np.empty(old.shape, np.float32)
    scales, biases = _numbers(rows, some, grid)
    dequantize(old, scales, biases, grid.form, before, np.empty_like(before), exact=True)
    to_groups(delta, intended)
    if not (np.isfinite(before).all() and np.isfinite(delta).all()):
        raise NotFiniteError
    places: Array = old.view(np.int32).astype(np.float32)
    if not kind.target.dither:
        scales, biases = fit(_sum(before, intended, update, grid), target)
        places = (before - biases) / scales
    if fitting is None:
        new = _rounded(places, scales, delta, shaper, chosen, target)
    else:
        new, scales, biases = _fitted(places, scales, biases, delta, shaper, chosen, target, fitting)
    after = _moved(new, scales, biases, target, before)
    if fitting is not None:
        # What these rows owe to the next is that of the fitted numbers, whatever was learned from there: codes depend on it.
        written = np.empty_like(delta)
        to_rows(after, written)
        shaper.settle(chosen, (written - delta).astype(np.float64))
    if learned is not None:
        scales, biases = _learned(learned, chosen, scales, biases, target.top)
        after = _moved(new, scales, biases, target, before)
    out.weight[some] = pack(new, target).reshape(len(some), -1)
    if fitting is not None or not kind.target.dither:
        assert out.scales is not None and out.biases is not None
        out.scales[some] = encode(scales, target.form).reshape(len(some), -1)
        out.biases[some] = encode(biases, target.form).reshape(len(some), -1)
    sums = measure(after, intended, before, np.empty_like(after), grouped=True)
    return sums if sums.finite else measure_exactly(after, intended, before)


def _learned(learned: Stored, chosen: Array, scales: Array, biases: Array, top: int) -> tuple[Array, Array]:
    """Return what was learned for some rows, which is near what was fitted: nobody's file writes a model of its own."""
    found = tuple(
        decode(np.ascontiguousarray(part[chosen]).reshape(-1), learned.form)
        for part in (learned.scales, learned.biases)
    )
    farthest = np.abs(found[0] - scales) * top + np.abs(found[1] - biases)
    if (farthest > MOST_LEARNED * np.abs(scales)).any():
        raise FormatError(
            "what was learned for this adapter's model is too far from what its fuse gives",
            hint="fusery base calibrate BASE --adapter REF learns it anew, and --seed 1 is another draw without it",
        )
    return found[0], found[1]


def _moved(codes: Array, scales: Array, biases: Array, grid: Grid, before: Array) -> Array:
    """Return by how much numbers differ from what they were, in groups."""
    after = np.empty_like(before)
    dequantize(codes, scales, biases, grid.form, after, np.empty_like(after), exact=True)
    np.subtract(after, before, out=after)
    return after


def _numbers(rows: Rows, some: Array, grid: Grid) -> tuple[Array, Array]:
    assert rows.scales is not None and rows.biases is not None
    return (
        decode(rows.scales[some].reshape(-1), grid.form),
        decode(rows.biases[some].reshape(-1), grid.form),
    )


def _sum(before: Array, intended: Array, update: Update, grid: Grid) -> Array:
    """Return the sum as `keep` would quantise it."""
    values, scratch = np.empty_like(before), np.empty_like(before)
    update.round_to(intended, grid.form, scratch, values, exact=True)
    np.add(before, values, out=values)
    round_sum(values, grid.form, scratch, values, exact=True)
    return values


def _rounded(places: Array, scales: Array, delta: Array, shaper: Shaper, chosen: Array, grid: Grid) -> Array:
    """Return the new codes, in groups; nothing moves where a scale is 0."""
    plain, steps, wanted = _laid_out(places, scales, delta)
    return _as_codes(shaper.round(plain, steps, wanted, chosen, grid.top), grid)


def _fitted(
    places: Array,
    scales: Array,
    biases: Array,
    delta: Array,
    shaper: Shaper,
    chosen: Array,
    grid: Grid,
    fitting: Fit,
) -> tuple[Array, Array, Array]:
    """Return the new codes, in groups, and the scales and biases that go with them, as they are stored."""
    plain, steps, wanted = _laid_out(places, scales, delta)
    new, aim = shaper.choose(plain, steps, wanted, chosen, grid.top)
    by_scale, by_bias = fitting.changes(new, aim - (new - plain) * steps)
    moves = (np.abs(by_scale) <= MOST * np.abs(scales).reshape(by_scale.shape)) & np.isfinite(by_bias)
    moved = []
    for known, change in ((scales, by_scale), (biases, by_bias)):
        rounded = decode(encode((known + change.reshape(-1)).astype(np.float32), grid.form), grid.form)
        moves &= np.isfinite(rounded).reshape(moves.shape)
        moved.append(rounded)
    still = ~moves.reshape(-1) | (scales == 0)
    return (
        _as_codes(new, grid),
        np.where(still, scales, moved[0]),
        np.where(still, biases, moved[1]),
    )


def _laid_out(places: Array, scales: Array, delta: Array) -> tuple[Array, Array, Array]:
    """Return codes, steps and the change that is wanted, row by row; nothing is wanted where a scale is 0."""
    still = scales == 0
    plain, steps = np.empty_like(delta), np.empty_like(delta)
    to_rows(places, plain)
    to_rows(np.broadcast_to(np.where(still, np.float32(1), scales), places.shape), steps)
    wanted = delta
    if still.any():
        moving = np.empty_like(delta)
        to_rows(np.broadcast_to(np.where(still, np.float32(0), np.float32(1)), places.shape), moving)
        wanted = delta * moving
    return plain, steps, wanted


def _codes(words: Array, grid: Grid) -> Array:
    words = np.ascontiguousarray(words).reshape(-1, grid.words_per_group)
    codes = np.empty((grid.group_size, len(words)), np.uint32)
    unpack(words, grid, codes)
    return codes


def _as_codes(values: Array, grid: Grid) -> Array:
    # As an integer, what is no number would be more than a code has bits for, and run over into those beside it.
    if not np.isfinite(values).all():
        raise NotFiniteError
    codes = np.empty((grid.group_size, values.size // grid.group_size), np.float32)
    to_groups(np.ascontiguousarray(values), codes)
    return codes.astype(np.int32).view(np.uint32)
