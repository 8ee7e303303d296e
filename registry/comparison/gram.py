"""Sums of rank-1 terms through the Gram matrices of their columns: fast, and aware of what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


_INDEPENDENT = 3e-5
"""Least distance of a column of length 1 from the space of those before it, for its Gram matrix to tell the two
apart: what is lost is 2^-53 / distance^2, here 1e-7."""

_BLOCK = 1024
"""Rows that are multiplied at once: 1 MB at rank 64."""

_CANCELLED = 1e-7
"""Least share of the terms' squared lengths that must be left of a squared sum: what is lost is 2^-50 / share."""


@dataclass(frozen=True, slots=True)
class GramCore:
    """A small matrix with the singular values of a sum of terms, and the Cholesky factors it was made from."""

    matrix: Array
    left: Array
    right: Array
    terms: Array


@dataclass(frozen=True, slots=True)
class Gram:
    """The Gram matrices of columns of length 1, and the lengths that were taken out.

    With columns of length 1 the loss does not depend on how the numbers are spread over A and B, or over the rank.

    Attributes:
        left: the scalar products of the a_k, each with length 1.
    """

    left: Array
    right: Array
    lengths: Array
    columns: Array

    @classmethod
    def of(cls, lefts: Sequence[Array], rights: Sequence[Array]) -> Gram:
        """Take the terms of several updates together.

        Args:
            lefts: (m, r) each, their columns are the a_k; numbers that float32 has, or differences of such.
            rights: (r, n) each, their rows are the b_k.
        """
        # Squares of float32 numbers and their sums are far within float64: nothing finite overflows or vanishes.
        with np.errstate(invalid="ignore"):
            grams = _gram(lefts), _gram([right.T for right in rights])
        if not all(np.isfinite(gram).all() for gram in grams):
            raise ValueError("not finite")
        lengths = [np.sqrt(np.diag(gram)) for gram in grams]
        unit = []
        for gram, length in zip(grams, lengths, strict=True):
            divisor = np.where(length > 0, length, 1.0)
            unit.append(gram / divisor / divisor[:, None])
        return cls(unit[0], unit[1], lengths[0] * lengths[1], lengths[0])

    @property
    def size(self) -> int:
        """The number of terms."""
        return len(self.lengths)

    def product(self, ours: Array, theirs: Array) -> float:
        """Return the inner product of two sums."""
        return float((ours * self.lengths) @ (self.left * self.right) @ (theirs * self.lengths))

    def norm(self, weights: Array) -> float | None:
        """Return the norm of a sum; None if too much of it cancels to tell."""
        square, terms = self.product(weights, weights), float(np.square(weights * self.lengths).sum())
        if not terms:
            return 0.0
        return math.sqrt(square) if square > _CANCELLED * terms else None

    def core(self, weights: Array) -> GramCore | None:
        """Return a small matrix with the singular values of a sum; None if its terms nearly depend on each other."""
        terms = np.flatnonzero(weights * self.lengths)
        within = np.ix_(terms, terms)
        try:
            left, right = np.linalg.cholesky(self.left[within]), np.linalg.cholesky(self.right[within])
        except np.linalg.LinAlgError:
            return None
        if min(np.diag(factor).min(initial=1.0) for factor in (left, right)) < _INDEPENDENT:
            return None
        matrix = left.T @ ((weights * self.lengths)[terms, None] * right)
        return GramCore(matrix, left, right, terms)

    def shapes(self, ours: GramCore, theirs: GramCore) -> tuple[list[Array], list[Array]]:
        """Return the singular values of two sums, and the angles between their column and row spaces."""
        spectra = [singular_values(core.matrix) for core in (ours, theirs)]
        bases: list[tuple[Array | None, Array | None]] = [(None, None), (None, None)]
        if any(numerical_rank(spectrum) < len(spectrum) for spectrum in spectra):
            bases = [spaces(core.matrix) for core in (ours, theirs)]
        crossed = np.ix_(ours.terms, theirs.terms)
        angles = [
            _between(self.left[crossed], (ours.left, theirs.left), (bases[0][0], bases[1][0])),
            _between(self.right[crossed], (ours.right, theirs.right), (bases[0][1], bases[1][1])),
        ]
        return spectra, angles


def _gram(columns: Sequence[Array]) -> Array:
    """Return the scalar products of all columns with all, block by block of rows that stay in the processor's cache."""
    ends = np.cumsum([part.shape[1] for part in columns]).tolist()
    rows = columns[0].shape[0]
    total: Array = np.zeros((ends[-1], ends[-1]))
    # Rows of B lie one behind the other, columns of A do not: the block is laid out as they are.
    across = columns[0].flags.f_contiguous and not columns[0].flags.c_contiguous
    block: Array = np.empty((ends[-1], _BLOCK)).T if across else np.empty((_BLOCK, ends[-1]))
    for start in range(0, rows, _BLOCK):
        height = min(_BLOCK, rows - start)
        for part, end in zip(columns, ends, strict=True):
            block[:height, end - part.shape[1] : end] = part[start : start + height]
        total += block[:height].T @ block[:height]
    return total


def _between(crossed: Array, factors: tuple[Array, Array], bases: tuple[Array | None, Array | None]) -> Array:
    inner: Array = np.linalg.solve(factors[0], crossed)
    inner = np.linalg.solve(factors[1], inner.T).T
    if bases[0] is not None and bases[1] is not None:
        inner = bases[0].T @ inner @ bases[1]
    angles: Array = np.arccos(np.minimum(singular_values(inner), 1.0))
    return angles
