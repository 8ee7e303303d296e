"""Singular values and principal angles of small matrices, and what they say about an update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RANK_TOLERANCE = 1e-6
"""A direction counts as one of the update's if its singular value is more than this share of the largest: numbers
that were rounded to float32 leave 6e-8 in directions that mean nothing."""


def singular_values(matrix: Array) -> Array:
    """Return the singular values, falling."""
    values: Array = np.linalg.svd(matrix, compute_uv=False) if matrix.size else np.empty(0)
    return values


def spaces(core: Array) -> tuple[Array, Array]:
    """Return orthonormal bases of the column space and of the row space of a small matrix."""
    columns, values, rows = np.linalg.svd(core, full_matrices=False)
    rank = numerical_rank(values)
    return columns[:, :rank], rows[:rank].T


def angles_between(ours: Array, theirs: Array) -> Array:
    """Return the principal angles between two orthonormal bases, small ones by their sines.

    Source: Bjorck and Golub, "Numerical methods for computing angles between linear subspaces" (1973), which loses
    no digits where an arc cosine would.
    """
    if ours.shape[1] < theirs.shape[1]:
        ours, theirs = theirs, ours
    if not theirs.shape[1]:
        return np.empty(0)
    crossed = ours.T @ theirs
    cosines = np.minimum(np.linalg.svd(crossed, compute_uv=False), 1.0)
    sines = np.minimum(np.linalg.svd(theirs - ours @ crossed, compute_uv=False)[::-1], 1.0)
    return np.where(cosines**2 > 0.5, np.arcsin(sines), np.arccos(cosines))


def numerical_rank(spectrum: Sequence[float] | Array) -> int:
    """Return how many directions count, of falling singular values."""
    values = np.asarray(spectrum)
    return int(np.count_nonzero(values > RANK_TOLERANCE * values[0])) if len(values) else 0


def effective_rank(spectrum: Sequence[float]) -> float:
    """Return how many directions an update really uses: exp of the entropy of its energy over the directions.

    1 for one direction, r for r equal ones, 0 for zero.  The shares are those of the squared singular values, which
    sum to the squared norm.  Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality"
    (EUSIPCO 2007), there with the values themselves in place of their squares.
    """
    largest = max(spectrum, default=0.0)
    if not largest:
        return 0.0
    energy = np.square(np.asarray(spectrum) / largest)
    shares = energy[energy > 0] / energy.sum()
    return math.exp(-float(shares @ np.log(shares)))


def overlap(angles: Sequence[float]) -> float | None:
    """Return the share of the smaller subspace that lies within the larger one, 0 to 1; None without any direction.

    The mean of the squared cosines of the principal angles.  Source: Hu et al., "LoRA" (2021), section 7.2, where it
    is called the normalised subspace similarity.
    """
    return float(np.square(np.cos(angles)).mean()) if len(angles) else None
