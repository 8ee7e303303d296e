"""Comparing two low-rank updates through matrices as small as their ranks.

An update is U = scale * A B with A (m, r) and B (r, n).  Everything asked of it lives in the spaces that the columns
of A and the rows of B span, so an m x n matrix is never made.

Two ways lead there.  The Gram matrices of the factors, in float64, take one pass of the fastest routine there is;
what they lose is half of the digits where columns nearly depend on each other or where much cancels.  The QR
decomposition loses nothing and takes twenty times as long.  So the Gram matrices are tried first, how much they lost
is looked at, and only where it is too much are the factors decomposed.

The difference of nearly equal updates would cancel in both: D = (s A1 - t A2) B1 + t A2 (B1 - B2) does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gram import Gram, angles_between, numerical_rank, singular_values, spaces

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LowRank:
    """One update: `scale * a @ b`, with a (m, r) and b (r, n) of any float format, all finite."""

    a: Array
    b: Array
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the update."""
        return self.a.shape[0], self.b.shape[1]

    def same(self, other: LowRank) -> bool:
        """Whether the other has the very same factors and scale."""
        return (
            self.scale == other.scale
            and self.a.shape == other.a.shape
            and np.array_equal(self.a, other.a)
            and np.array_equal(self.b, other.b)
        )


@dataclass(frozen=True, slots=True)
class UpdateComparison:
    """What two updates of one module have to do with each other.

    Attributes:
        norm_a: Frobenius norm of the first, 0 if there is none.
        product: Frobenius inner product of the two.
        spectrum_a: singular values of the first, falling, as many as its rank; right to 1e-7 of the norm.
        angles_in: principal angles in radians, rising, between the column spaces of the two: what they read from,
            for a layer that multiplies x A B; right to 1e-6.
    """

    norm_a: float
    norm_b: float
    product: float
    change: float
    spectrum_a: tuple[float, ...] = ()
    spectrum_b: tuple[float, ...] = ()
    angles_in: tuple[float, ...] = ()
    angles_out: tuple[float, ...] = ()

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two as vectors of numbers; None where one of them is zero."""
        if not self.norm_a or not self.norm_b:
            return None
        return min(1.0, max(-1.0, self.product / self.norm_a / self.norm_b))

    @property
    def relative_change(self) -> float | None:
        """Norm of the difference over that of the first; 0 for two zeros, None for a change from zero."""
        if not self.change:
            return 0.0
        return self.change / self.norm_a if self.norm_a else None


def compare(a: LowRank | None, b: LowRank | None, *, shapes: bool = True) -> UpdateComparison:
    """Compare two updates of one module, of which one may be missing; their ranks may differ."""
    if a is None or b is None or a.same(b):
        return _one(a, b, shapes=shapes)
    if a.shape != b.shape:
        raise ValueError(f"updates of {a.shape} and {b.shape}")
    terms, rank = _Terms(a, b), a.a.shape[1]
    ours, theirs = np.zeros(terms.size), np.zeros(terms.size)
    ours[:rank], theirs[rank:] = a.scale, b.scale
    norms = terms.norm(ours), terms.norm(theirs)
    change = terms.gram.norm(ours - theirs)
    if change is None:
        change = _difference(a, b)
    if change is None:
        change = terms.cores.norm(ours - theirs)
    found = UpdateComparison(*norms, terms.product(ours, theirs), change)
    if not shapes:
        return found
    spectra, angles = terms.shapes(ours, theirs)
    return replace(
        found,
        spectrum_a=_fitted(spectra[0], a),
        spectrum_b=_fitted(spectra[1], b),
        angles_in=tuple(angles[0].tolist()),
        angles_out=tuple(angles[1].tolist()),
    )


def _one(a: LowRank | None, b: LowRank | None, *, shapes: bool) -> UpdateComparison:
    one = a if a is not None else b
    if one is None:
        raise ValueError("nothing to compare")
    terms = _Terms(one)
    weights = np.full(terms.size, one.scale)
    norm = terms.norm(weights)
    spectrum = _fitted(terms.spectrum(weights), one) if shapes else ()
    if b is None:
        return UpdateComparison(norm, 0.0, 0.0, norm, spectrum_a=spectrum)
    if a is None:
        return UpdateComparison(0.0, norm, 0.0, norm, spectrum_b=spectrum)
    angles = (0.0,) * numerical_rank(spectrum)
    return UpdateComparison(norm, norm, norm * norm, 0.0, spectrum, spectrum, angles, angles)


def _fitted(spectrum: Array, update: LowRank) -> tuple[float, ...]:
    values = spectrum.tolist()[: min(update.a.shape[1], *update.shape)]
    return (*values, *[0.0] * (min(update.a.shape[1], *update.shape) - len(values)))


def _difference(a: LowRank, b: LowRank) -> float | None:
    """Return the norm of the difference of two nearly equal updates of one rank, without taking one from the other."""
    if a.a.shape != b.a.shape:
        return None
    common = a.scale if a.scale == b.scale else 1.0
    first, second = (
        update.a if a.scale == b.scale else np.multiply(update.a, update.scale, dtype=np.float64)
        for update in (a, b)
    )
    apart = [np.subtract(ours, theirs, dtype=np.float64) for ours, theirs in ((first, second), (a.b, b.b))]
    gram = Gram.of([apart[0], second], [a.b, apart[1]])
    return gram.norm(np.full(gram.size, common))


class _Terms:
    """The terms a_k b_k of one or two updates, and sums of them with weights."""

    def __init__(self, *updates: LowRank) -> None:
        self._updates = updates
        self.size = sum(update.a.shape[1] for update in updates)

    @cached_property
    def gram(self) -> Gram:
        return Gram.of([update.a for update in self._updates], [update.b for update in self._updates])

    @cached_property
    def cores(self) -> _Cores:
        left = np.concatenate([update.a for update in self._updates], axis=1, dtype=np.float64)
        right = np.concatenate([update.b for update in self._updates], dtype=np.float64)
        return _Cores.of(left, right)

    def norm(self, weights: Array) -> float:
        """Return the norm of a sum."""
        norm = self.gram.norm(weights)
        return self.cores.norm(weights) if norm is None else norm

    def product(self, ours: Array, theirs: Array) -> float:
        """Return the inner product of two sums."""
        if "cores" in self.__dict__:  # as something cancelled in the Gram matrices
            return float((self.cores.core(ours) * self.cores.core(theirs)).sum())
        return self.gram.product(ours, theirs)

    def spectrum(self, weights: Array) -> Array:
        """Return the singular values of a sum."""
        core = self.gram.core(weights)
        return singular_values(self.cores.core(weights) if core is None else core.matrix)

    def shapes(self, ours: Array, theirs: Array) -> tuple[list[Array], list[Array]]:
        """Return the singular values of two sums, and the angles between their column and row spaces."""
        cores = None
        if "cores" not in self.__dict__:
            first, second = self.gram.core(ours), self.gram.core(theirs)
            cores = None if first is None or second is None else (first, second)
        if cores is not None:
            return self.gram.shapes(*cores)
        return self.cores.shapes(ours, theirs)


@dataclass(frozen=True, slots=True)
class _Cores:
    """The triangular factors of columns of length 1, and the lengths that were taken out."""

    left: Array
    right: Array
    lengths: Array

    @classmethod
    def of(cls, left: Array, right: Array) -> _Cores:
        triangles, lengths = [], []
        for columns in (left, right.T):
            length = np.sqrt(np.einsum("ij,ij->j", columns, columns))
            upper: Any = np.linalg.qr(columns / np.where(length > 0, length, 1.0), mode="r")
            triangles.append(np.asarray(upper))
            lengths.append(length)
        return cls(triangles[0], triangles[1], lengths[0] * lengths[1])

    def core(self, weights: Array) -> Array:
        """Return a small matrix that is a sum of the terms, in orthonormal bases that all sums share."""
        core: Array = (self.left * (weights * self.lengths)) @ self.right.T
        return core

    def norm(self, weights: Array) -> float:
        """Return the norm of a sum."""
        return float(np.linalg.norm(self.core(weights)))

    def shapes(self, ours: Array, theirs: Array) -> tuple[list[Array], list[Array]]:
        """Return the singular values of two sums, and the angles between their column and row spaces."""
        cores = [self.core(weights) for weights in (ours, theirs)]
        (our_columns, our_rows), (their_columns, their_rows) = (spaces(core) for core in cores)
        angles = [angles_between(our_columns, their_columns), angles_between(our_rows, their_rows)]
        return [singular_values(core) for core in cores], angles


def joined(parts: Sequence[UpdateComparison]) -> UpdateComparison:
    """Return the comparison of whole modules whose parts, experts say, share no numbers.

    It is that of matrices with the parts along their diagonal: squares add, spectra and angles are put together.
    """
    if len(parts) == 1:
        return parts[0]
    return UpdateComparison(
        math.hypot(*(part.norm_a for part in parts)),
        math.hypot(*(part.norm_b for part in parts)),
        math.fsum(part.product for part in parts),
        math.hypot(*(part.change for part in parts)),
        tuple(sorted((value for part in parts for value in part.spectrum_a), reverse=True)),
        tuple(sorted((value for part in parts for value in part.spectrum_b), reverse=True)),
        tuple(sorted(angle for part in parts for angle in part.angles_in)),
        tuple(sorted(angle for part in parts for angle in part.angles_out)),
    )
