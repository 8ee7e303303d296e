"""Scales and biases fitted to what the codes of a block are still off by, where it would be heard.

Codes move by whole steps, scales and biases by a few hundredths of one (bfloat16's next number), and there are two of them for
each group.  For a row whose codes are chosen, with an error r that is still wanted, they change by the x that minimises

    (r - A x) H (r - A x)^T + ridge * diag(A H A^T) x x,      H = diag(d) + U U^T

where A x adds x_s * code + x_b to the numbers of a group: the least squares of a metric in low-rank form (`shaping`).  With
F = A U the normal equations are (B + F F^T) x = b, where B has a block of 2 by 2 for each group, so that only a matrix as
large as there are directions has to be solved: (I + F^T B^-1 F) y = F^T B^-1 b, x = B^-1 (b - F y) (Woodbury's formula).

No BLAS: sums run in a written order, over all rows of a block at once, so that the bits are the same on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kernel
from .arithmetic import Array

RIDGE = 1e-3
"""What is added to the diagonal of A H A^T, as a share of it: codes that are all the same tell a scale from a bias by nothing."""

MOST = 0.5
"""A scale changes at most by this share of itself, or stays as it is: the codes were chosen for about that step."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How the scales and biases of a module's rows are fitted.

    Attributes:
        directions: float64 (group size, K, groups), U by the place in a group.
        rest: float64 (group size, groups), d.
    """

    directions: Array
    rest: Array

    @classmethod
    def of(cls, directions: Array, rest: Array, group_size: int) -> Fit:
        """Prepare a module.

        Args:
            directions: float64 (K, columns), U^T.
            rest: float64 (columns,), d.
            group_size: of the grid.
        """
        count, columns = directions.shape
        groups = columns // group_size
        grouped = directions.reshape(count, groups, group_size).transpose(2, 0, 1)
        return cls(np.ascontiguousarray(grouped), np.ascontiguousarray(rest.reshape(groups, group_size).T))

    def changes(self, codes: Array, wanted: Array) -> tuple[Array, Array]:
        """Return by how much scales and biases change, float64 (rows, groups) each.

        Args:
            codes: float32 (rows, columns), as they are written.
            wanted: float32 (rows, columns), what the written numbers lack.
        """
        done = kernel.fit(self.directions, self.rest, codes, wanted, RIDGE)
        if done is not None:
            return done
        size, count, groups = self.directions.shape
        rows = len(codes)
        code, lack = (
            np.ascontiguousarray(part.reshape(rows, groups, size).transpose(2, 1, 0), np.float64)
            for part in (codes, wanted)
        )
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
        blocks = _inverse(square, cross, np.broadcast_to(weight, square.shape), coded, ones)
        left = _solved(*_reduced(blocks, coded, ones, by_scale, by_bias))
        by_scale -= _times(coded, left)
        by_bias -= _times(ones, left)
        first, second, third = blocks
        return (first * by_scale + second * by_bias).T, (second * by_scale + third * by_bias).T


def _inverse(
    square: Array, cross: Array, weight: Array, coded: Array, ones: Array
) -> tuple[Array, Array, Array]:
    """Return the inverse of each group's block, with the ridge of its whole diagonal."""
    one = square + RIDGE * (square + _over(coded * coded, 0)) + 1e-300
    other = weight + RIDGE * (weight + _over(ones * ones, 0)) + 1e-300
    determinant = one * other - cross * cross
    return other / determinant, -cross / determinant, one / determinant


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
    """Return a sum along an axis, one part after the other."""
    parts = np.moveaxis(parts, axis, 0)
    total = np.zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total
