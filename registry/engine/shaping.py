"""Round on the base's own grid so that the error is small in the directions of the inputs.

Rounding at random (`dither`) keeps an update on average, and adds noise of every direction.  With a calibration, the
noise can be moved to directions in which inputs hardly ever point.  Two feedbacks:

1. Along the columns, in the order of falling energy of the inputs: what one column is off by is made up for in the
   columns after it, so that the error e of a row is small in e (diag(d) + U U^T) e^T.  U holds the main directions of
   the inputs (`calibration`), and the directions of the adapter's own `lora_a` with a large weight, so that the update
   survives row by row.  This is GPTQ (Frantar et al., arXiv:2210.17323) with the metric in low-rank form: with
   v = U^T e of the columns done, the best shift of column j is -(P_j u_j / d_j) v, where
   P_j = (I + sum over i >= j of u_i u_i^T / d_i)^-1, found from the last column to the first.
2. Along the rows, block by block: rounding to nearest suppresses small changes in all rows alike, which adds up in the
   directions of `lora_b` over the outputs.  The missing sum in those directions goes into the next block's target.

No random numbers, no BLAS: sums run in a written order, so that codes are the same on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kernel
from .arithmetic import Array, Update, mixed
from .calibration import Directions

DAMPING = 0.1  # added to d, as a share of the mean energy of the inputs
UPDATE_WEIGHT = 100.0  # how much more the adapter's own directions count than the damping
RIDGE = 0.05  # keeps the second feedback small if a block has next to no rows in some direction of `lora_b`
ROWS = 64  # rows of a block, after which the second feedback acts
# Root mean square of an update in steps of the base's grid, below which rounding at random keeps more: too few codes move
# for errors to make up for one another.
LEAST_STEPS = 0.02
_HALF = np.float32(0.5)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the rounding errors of a module are shaped."""

    order: Array
    directions: Array  # float32 (columns, K, 1), U in that order
    gains: Array  # float32 (columns, K, 1), P u / d in that order
    outputs: Array  # float64 (rows, rank), an orthonormal basis of what the update can reach

    @classmethod
    def of(cls, inputs: Directions, left: Array, right: Array) -> Shape:
        """Prepare a module; `left` and `right` are those of `arithmetic.Update`."""
        directions, rest = metric(inputs, right)
        energy = rest + np.add.reduce(directions * directions, axis=0)
        order = np.argsort(-energy, kind="stable")
        directions, rest = directions[:, order].T, rest[order]
        return cls(
            order,
            np.ascontiguousarray(directions, np.float32)[:, :, None],
            _gains(directions, rest)[:, :, None],
            np.ascontiguousarray(orthonormal(left).T),
        )


def metric(inputs: Directions, right: Array) -> tuple[Array, Array]:
    """Return in what errors of a row are small: U^T, float64 (K, columns), and d, float64 (columns,)."""
    own = orthonormal(right)
    # Where nothing came in while the base read, all inputs count alike.
    mean = inputs.mean if inputs.mean > 0 else 1.0
    rest = inputs.rest.astype(np.float64) + DAMPING * mean
    columns, rank = len(rest), max(len(own), 1)
    weight = np.sqrt(UPDATE_WEIGHT * DAMPING * mean * columns / rank)
    return np.concatenate([inputs.directions.astype(np.float64), own * weight]), rest


def orthonormal(rows: Array) -> Array:
    """Return an orthonormal basis of the space of some rows, float64, by Gram and Schmidt, twice over."""
    basis: list[Array] = []
    for row in rows.astype(np.float64):
        size = _dot(row, row)
        for _ in range(2):
            for other in basis:
                row = row - _dot(row, other) * other
        left = _dot(row, row)
        if left > 1e-18 * size and left > 0:
            basis.append(row / np.sqrt(left))
    return np.array(basis).reshape(-1, rows.shape[1])


def mean_steps(update: Update, scales: Array) -> float:
    """Return the root mean square of an update, as a share of the mean step; the scales are float32, of all groups."""
    left, right = update.left.astype(np.float64), update.right.astype(np.float64)
    square = sum(
        _dot(left[one], left[other]) * _dot(right[one], right[other])
        for one in range(len(left))
        for other in range(len(left))
    )
    step = _dot(np.abs(scales).astype(np.float64), np.ones(len(scales))) / len(scales)
    return float(np.sqrt(max(square, 0.0) / (left.shape[1] * right.shape[1]))) / max(step, 1e-30)


def blocks_of_rows(first: int, count: int, seed: int) -> list[Array]:
    """Return which of some rows make up each block, shuffled, so that each block has some of every kind."""
    order = np.argsort(mixed(np.arange(first, first + count), seed), kind="stable") + first
    return np.array_split(order, max(count // ROWS, 1))


class Shaper:
    """Rounds the blocks of one module, one after the other."""

    def __init__(self, shape: Shape, columns: int) -> None:
        self._shape = shape
        self._owed = np.zeros((shape.outputs.shape[1], columns))

    def round(self, codes: Array, steps: Array, delta: Array, rows: Array, top: int) -> Array:
        """Return the new codes of a block; codes, steps and the intended change are float32 (rows, columns)."""
        new, _ = self.choose(codes, steps, delta, rows, top)
        self.settle(rows, ((new - codes) * steps - delta).astype(np.float64))
        return new

    def choose(self, codes: Array, steps: Array, delta: Array, rows: Array, top: int) -> tuple[Array, Array]:
        """Return the new codes of a block, and their target: the intended change and the missing sum."""
        # The arguments are those of `round`; `settle` follows.
        outputs = self._shape.outputs[rows]
        wanted = delta - self._still_owed(outputs).astype(np.float32)
        order = self._shape.order
        new = np.empty_like(codes)
        turned = [np.ascontiguousarray(part[:, order].T) for part in (codes, steps, wanted)]
        new[:, order] = self._round(*turned, top=top).T
        return new, wanted

    def settle(self, rows: Array, error: Array) -> None:
        """Note what the blocks to come have to take back: float64 (rows, columns), written beyond the intended change."""
        outputs = self._shape.outputs[rows]
        for row in range(len(rows)):
            self._owed += outputs[row][:, None] * error[row]

    def _still_owed(self, outputs: Array) -> Array:
        """Return what a block has to take back: the rows of its basis times what is owed, in the sense of least squares."""
        rank = outputs.shape[1]
        gram = np.zeros((rank, rank))
        for row in outputs:
            gram += row[:, None] * row
        shares = np.zeros_like(self._owed)
        for column, inverse in enumerate(_inverse(gram).T):
            shares += inverse[:, None] * self._owed[column]
        taken = np.zeros((len(outputs), self._owed.shape[1]))
        for direction in range(rank):
            taken += outputs[:, direction, None] * shares[direction]
        return taken

    def _round(self, codes: Array, steps: Array, wanted: Array, *, top: int) -> Array:
        """Round column after column; all arrays are (columns, rows), in the order of the shape."""
        directions, gains = self._shape.directions, self._shape.gains
        new = np.empty_like(codes)
        if kernel.shape(codes, steps, wanted, directions, gains, top, new):
            return new
        state = np.zeros((directions.shape[1], codes.shape[1]), np.float32)
        products, shift = np.empty_like(state), np.empty(codes.shape[1], np.float32)
        error = np.empty_like(shift)
        limit = np.float32(top)
        for column in range(len(codes)):
            code, step, want, out = codes[column], steps[column], wanted[column], new[column]
            np.multiply(gains[column], state, out=products)
            np.add.reduce(products, axis=0, out=shift)
            np.subtract(want, shift, out=shift)
            np.divide(shift, step, out=shift)
            np.add(shift, code, out=shift)
            np.add(shift, _HALF, out=shift)
            np.floor(shift, out=out)
            np.maximum(out, np.float32(0), out=out)
            np.minimum(out, limit, out=out)
            np.subtract(out, code, out=error)
            np.multiply(error, step, out=error)
            np.subtract(error, want, out=error)
            np.multiply(directions[column], error, out=products)
            np.add(state, products, out=state)
        return new


def _gains(directions: Array, rest: Array) -> Array:
    """Return P_j u_j / d_j of each column, float32 (columns, K), by Sherman and Morrison's formula."""
    columns, count = directions.shape
    inverse, gains = np.eye(count), np.empty((columns, count), np.float32)
    for column in range(columns - 1, -1, -1):
        direction = directions[column]
        moved = np.add.reduce(inverse * direction[:, None], axis=0)
        gain = moved / (rest[column] + _dot(direction, moved))
        inverse -= moved[:, None] * gain
        gains[column] = gain
    return gains


def _inverse(gram: Array) -> Array:
    """Return the inverse of a symmetric matrix plus a ridge, by Gauss and Jordan."""
    size = len(gram)
    ridge = RIDGE * sum(gram[place, place] for place in range(size)) / max(size, 1) + 1e-300
    both = np.concatenate([gram + np.eye(size) * ridge, np.eye(size)], axis=1)
    for place in range(size):
        both[place] /= both[place, place]
        for other in range(size):
            if other != place:
                both[other] -= both[other, place] * both[place]
    return both[:, size:]


def _dot(left: Array, right: Array) -> float:
    return float(np.add.accumulate(left * right)[-1]) if len(left) else 0.0
