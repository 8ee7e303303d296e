"""Sums of rank-1 terms through the Gram matrices of their columns: fast, and aware of what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .spectra import numerical_rank, singular_values, spaces

Array = NDArray[Any]

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
        right: those of the b_k.
        lengths: of the terms: length of a_k times length of b_k.
        columns: lengths of the a_k.
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

        Raises:
            ValueError: a number is not finite.
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
    """Return the principal angles between two spaces from the Gram matrix of their bases with each other.

    Args:
        crossed: the scalar products of the columns of the one with those of the other.
        factors: the Cholesky factors of each with itself, which make the columns orthonormal.
        bases: the part of each space that counts, None for all of it.
    """
    inner: Array = np.linalg.solve(factors[0], crossed)
    inner = np.linalg.solve(factors[1], inner.T).T
    if bases[0] is not None and bases[1] is not None:
        inner = bases[0].T @ inner @ bases[1]
    angles: Array = np.arccos(np.minimum(singular_values(inner), 1.0))
    return angles
