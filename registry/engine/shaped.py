"""A block of scattered rows of a quantised module, rounded by a `shaping.Shaper`: unpack, round, pack, measure.

Scales and biases can be fitted to the error that the codes leave: codes move by whole steps, scales and biases by a few
hundredths of one (bfloat16's next number).  For a row with chosen codes and an error r, they change by the x that minimises

    (r - A x) H (r - A x)^T + ridge * diag(A H A^T) x x,      H = diag(d) + U U^T

where A x adds x_s * code + x_b to the numbers of a group: the least squares of a metric in low-rank form (`shaping`).  With
F = A U the normal equations are (B + F F^T) x = b, where B has a block of 2 by 2 for each group, so that only a matrix as
large as there are directions has to be solved: (I + F^T B^-1 F) y = F^T B^-1 b, x = B^-1 (b - F y) (Woodbury's formula).

No BLAS: sums run in a written order, over all rows of a block at once, so that the bits are the same on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusery.storage.errors import FormatError

from . import kernel
from .affine import Grid, dequantize, fit, pack, unpack
from .arithmetic import Array, NotFiniteError, Update, decode, encode, multiply_out, round_to, rounded
from .calibration import Stored
from .fidelity import Sums, measure, measure_exactly
from .rows import RowsFormat, StoredRows, to_groups, to_rows
from .shaping import Shaper

MOST_LEARNED = 1.5  # steps of the grid by which learned scales may move a number from its fitted value


def shape_rows(
    rows: StoredRows,
    kind: RowsFormat,
    update: Update,
    shaper: Shaper,
    chosen: Array,
    first: int,
    out: StoredRows,
    fitting: Fit | None = None,
    learned: Stored | None = None,
) -> Sums:
    """Round the sum of the `chosen` rows of a module and their update, and return what they retain."""
    # On the base's own grid its codes move, and with `fitting` scales and biases a little then, unless they were
    # `learned`; on a finer one the scales are those that the sum would be given anyway.
    grid, target = kind.grid, kind.target.grid
    assert isinstance(grid, Grid) and isinstance(target, Grid)
    assert rows.scales is not None and rows.biases is not None
    some = chosen - first
    delta, scratch = (np.empty((len(some), kind.columns), np.float32) for _ in range(2))
    multiply_out(update.left[:, chosen, None], update.right[:, None, :], delta, scratch)
    words = np.ascontiguousarray(rows.weight[some]).reshape(-1, grid.words_per_group)
    old = np.empty((grid.group_size, len(words)), np.uint32)
    unpack(words, grid, old)
    before, intended, scratch = (np.empty(old.shape, np.float32) for _ in range(3))
    scales, biases = (decode(part[some].reshape(-1), grid.form) for part in (rows.scales, rows.biases))
    dequantize(old, scales, biases, grid.form, before, scratch)
    to_groups(delta, intended)
    if not (np.isfinite(before).all() and np.isfinite(delta).all()):
        raise NotFiniteError
    places: Array = old.view(np.int32).astype(np.float32)
    if not kind.target.dither:
        whole = np.empty_like(before)
        update.round_to(intended, grid.form, scratch, whole)
        np.add(before, whole, out=whole)
        round_to(whole, grid.form, scratch, whole)
        scales, biases = fit(whole, target)
        places = (before - biases) / scales
    plain, steps, wanted = _laid_out(places, scales, delta)
    if fitting is None:
        new = _as_codes(shaper.round(plain, steps, wanted, chosen, target.top), target)
    else:
        codes, aim = shaper.choose(plain, steps, wanted, chosen, target.top)
        changes = fitting.changes(codes, aim - (codes - plain) * steps)
        new = _as_codes(codes, target)
        scales, biases = _fitted(scales, biases, *changes, target)
    after = _moved(new, scales, biases, target, before)
    if fitting is not None:
        # These rows owe the next what the fitted numbers are off by, also where others were learned: codes depend on it.
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
    sums = measure(after, intended, before, scratch, grouped=True)
    return sums if sums.finite else measure_exactly(after, intended, before)


def _learned(learned: Stored, chosen: Array, scales: Array, biases: Array, top: int) -> tuple[Array, Array]:
    """Return the learned numbers of some rows; refuse a file that would write another model than the fuse."""
    own = (np.ascontiguousarray(part[chosen]).reshape(-1) for part in (learned.scales, learned.biases))
    own_scales, own_biases = (decode(part, learned.form) for part in own)
    farthest = np.abs(own_scales - scales) * top + np.abs(own_biases - biases)
    if (farthest > MOST_LEARNED * np.abs(scales)).any():
        hint = "learn again with fusery base calibrate BASE --adapter REF, or take another draw: -o seed=1"
        raise FormatError("the learned scales are too far from those of the adapter's fuse", hint=hint)
    return own_scales, own_biases


def _moved(codes: Array, scales: Array, biases: Array, grid: Grid, before: Array) -> Array:
    after = np.empty_like(before)
    dequantize(codes, scales, biases, grid.form, after, np.empty_like(after))
    np.subtract(after, before, out=after)
    return after


def _fitted(scales: Array, biases: Array, by_scale: Array, by_bias: Array, grid: Grid) -> tuple[Array, Array]:
    """Return scales and biases that are changed by so much, as they are stored; those that would move too far stay."""
    moves = (np.abs(by_scale) <= MOST * np.abs(scales).reshape(by_scale.shape)) & np.isfinite(by_bias)
    moved = []
    for stored_numbers, change in ((scales, by_scale), (biases, by_bias)):
        numbers = rounded((stored_numbers + change.reshape(-1)).astype(np.float32), grid.form)
        moves &= np.isfinite(numbers).reshape(moves.shape)
        moved.append(numbers)
    still = ~moves.reshape(-1) | (scales == 0)
    return np.where(still, scales, moved[0]), np.where(still, biases, moved[1])


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


def _as_codes(values: Array, grid: Grid) -> Array:
    # As an integer, what is no number would be more than a code has bits for, and run over into those beside it.
    if not np.isfinite(values).all():
        raise NotFiniteError
    codes = np.empty((grid.group_size, values.size // grid.group_size), np.float32)
    to_groups(np.ascontiguousarray(values), codes)
    return codes.astype(np.int32).view(np.uint32)


RIDGE = 1e-3  # share added to the diagonal of A H A^T: equal codes do not distinguish a scale from a bias
MOST = 0.5  # share of itself by which a scale may change at most, or else it stays


@dataclass(frozen=True, slots=True)
class Fit:
    """How the scales and biases of a module's rows are fitted."""

    directions: Array  # float64 (group size, K, groups), U by the place in a group
    rest: Array  # float64 (group size, groups), d

    @classmethod
    def of(cls, directions: Array, rest: Array, group_size: int) -> Fit:
        """Prepare a module from U^T, float64 (K, columns), and d, float64 (columns,)."""
        count, columns = directions.shape
        groups = columns // group_size
        grouped = directions.reshape(count, groups, group_size).transpose(2, 0, 1)
        return cls(np.ascontiguousarray(grouped), np.ascontiguousarray(rest.reshape(groups, group_size).T))

    def changes(self, codes: Array, wanted: Array) -> tuple[Array, Array]:
        """Return by how much scales and biases change, float64 (rows, groups) each."""
        # Codes as they are written, and what the written numbers lack, are float32 (rows, columns).
        done = kernel.fit(self.directions, self.rest, codes, wanted, RIDGE)
        if done is not None:
            return done
        size, count, groups = self.directions.shape
        rows = len(codes)
        apart = (part.reshape(rows, groups, size).transpose(2, 1, 0) for part in (codes, wanted))
        code, lack = (np.ascontiguousarray(part, np.float64) for part in apart)
        ones = np.zeros((count, groups, 1))
        square, cross, weight = np.zeros((groups, rows)), np.zeros((groups, rows)), np.zeros((groups, 1))
        by_scale, by_bias = np.zeros((groups, rows)), np.zeros((groups, rows))
        coded, lacking = np.zeros((count, groups, rows)), np.zeros((count, groups, rows))
        for place in range(size):
            rest, direction = self.rest[place][:, None], self.directions[place][:, :, None]
            weighted = rest * code[place]
            square += weighted * code[place]
            cross += weighted
            weight += rest
            by_scale += weighted * lack[place]
            by_bias += rest * lack[place]
            coded += direction * code[place]
            lacking += direction * lack[place]
            ones += direction
        along = _over(lacking, 1)
        by_scale += _times(coded, along)
        by_bias += _times(ones, along)
        # The inverse of each group's block, with the ridge of its whole diagonal.
        one = square + RIDGE * (square + _over(coded * coded, 0)) + 1e-300
        other = weight + RIDGE * (weight + _over(ones * ones, 0)) + 1e-300
        determinant = one * other - cross * cross
        blocks = other / determinant, -cross / determinant, one / determinant
        left = _solved(*_reduced(blocks, coded, ones, by_scale, by_bias))
        by_scale -= _times(coded, left)
        by_bias -= _times(ones, left)
        first, second, third = blocks
        return (first * by_scale + second * by_bias).T, (second * by_scale + third * by_bias).T


def _reduced(
    blocks: tuple[Array, Array, Array], coded: Array, ones: Array, by_scale: Array, by_bias: Array
) -> tuple[Array, Array]:
    """Return I + F^T B^-1 F, (K, K, rows), and F^T B^-1 b, (K, rows)."""
    count, groups, rows = coded.shape
    matrix, right = np.zeros((count, count, rows)), np.zeros((count, rows))
    matrix[np.arange(count), np.arange(count)] = 1.0
    for group in range(groups):
        first, second, third = (part[group] for part in blocks)
        of_code, of_one = coded[:, group], ones[:, group]
        up, down = first * of_code + second * of_one, second * of_code + third * of_one
        matrix += of_code[:, None] * up
        matrix += of_one[:, None] * down
        right += up * by_scale[group] + down * by_bias[group]
    return matrix, right


def _solved(matrix: Array, right: Array) -> Array:
    """Return the solution (K, rows) of a positive definite system for each row, by Gauss."""
    count = len(right)
    for place in range(count):
        factors = matrix[place + 1 :, place] / matrix[place, place]
        matrix[place + 1 :, place:] -= factors[:, None] * matrix[place, place:]
        right[place + 1 :] -= factors * right[place]
    for place in range(count - 1, -1, -1):
        right[place] /= matrix[place, place]
        right[:place] -= matrix[:place, place] * right[place]
    return right


def _times(factors: Array, left: Array) -> Array:
    """Return F y: the sum over K of (K, groups, rows) times (K, rows)."""
    total = np.zeros((factors.shape[1], left.shape[1]))
    for factor, part in zip(factors, left, strict=True):
        total += factor * part
    return total


def _over(parts: Array, axis: int) -> Array:
    parts = np.moveaxis(parts, axis, 0)
    total = np.zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total
