"""Compare two low-rank updates U = scale * A B with A (m, r) and B (r, n) through matrices as small as their ranks.

Norms and inner products come from Gram matrices in float64, unless too much cancels there.  Singular values and angles come from QR
decompositions, which lose nothing and take twenty times as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.arithmetic import Array, NotFiniteError

RANK_TOLERANCE = 1e-6
"""Share of the largest singular value above which a direction counts; rounding to float32 leaves 6e-8 in others."""


def spaces(core: Array) -> tuple[Array, Array]:
    """Return orthonormal bases of the column space and of the row space of a small matrix."""
    columns, values, rows = np.linalg.svd(core, full_matrices=False)
    rank = numerical_rank(values)
    return columns[:, :rank], rows[:rank].T


def angles_between(ours: Array, theirs: Array) -> Array:
    """Return the principal angles between two orthonormal bases, small ones by their sines (Bjorck and Golub, 1973)."""
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
    """Return exp of the entropy of squared singular values: r for r equal directions (Roy and Vetterli, EUSIPCO 2007); 0 for zero."""
    largest = max(spectrum, default=0.0)
    if not largest:
        return 0.0
    energy = np.square(np.asarray(spectrum) / largest)
    shares = energy[energy > 0] / energy.sum()
    return math.exp(-float(shares @ np.log(shares)))


def overlap(angles: Sequence[float]) -> float | None:
    """Return the mean squared cosine of the principal angles, 0 to 1 (Hu et al., "LoRA", 2021, 7.2); None without any direction."""
    return float(np.square(np.cos(angles)).mean()) if len(angles) else None


_BLOCK = 1024  # Rows that are multiplied at once: 1 MB at rank 64

# Least share of the terms' squared lengths that must be left of a squared sum: what is lost is 2^-50 / share
_CANCELLED = 1e-7


@dataclass(frozen=True, slots=True)
class Gram:
    """The Gram matrices of columns scaled to length 1, which bounds the loss, and their lengths."""

    left: Array  # scalar products of the a_k, each with length 1
    right: Array
    lengths: Array
    columns: Array  # lengths of the a_k

    @classmethod
    def of(cls, lefts: Sequence[Array], rights: Sequence[Array]) -> Gram:
        """Return the Gram matrices of all terms of updates, from their A (m, r) and B (r, n)."""
        # Squares of float32 numbers and their sums are far within float64: nothing finite overflows or vanishes.
        with np.errstate(invalid="ignore"):
            grams = scalar_products(lefts), scalar_products([right.T for right in rights])
        if not all(np.isfinite(gram).all() for gram in grams):
            raise NotFiniteError
        lengths = [np.sqrt(np.diag(gram)) for gram in grams]
        unit = []
        for gram, length in zip(grams, lengths, strict=True):
            divisor = np.where(length > 0, length, 1.0)
            unit.append(gram / divisor / divisor[:, None])
        return cls(unit[0], unit[1], lengths[0] * lengths[1], lengths[0])

    def product(self, ours: Array, theirs: Array) -> float:
        """Return the inner product of two sums."""
        return float((ours * self.lengths) @ (self.left * self.right) @ (theirs * self.lengths))

    def norm(self, weights: Array) -> float | None:
        """Return the norm of a sum; None if too much of it cancels to tell."""
        square, terms = self.product(weights, weights), float(np.square(weights * self.lengths).sum())
        if not terms:
            return 0.0
        return math.sqrt(square) if square > _CANCELLED * terms else None


def scalar_products(columns: Sequence[Array], dtype: type = np.float64) -> Array:
    """Return the scalar products of all columns with all, float64: blocks of rows stay in the processor's cache."""
    ends = np.cumsum([part.shape[1] for part in columns]).tolist()
    rows = columns[0].shape[0]
    total: Array = np.zeros((ends[-1], ends[-1]))
    # Rows of B are contiguous, columns of A are not: the block is laid out as they are.
    across = columns[0].flags.f_contiguous and not columns[0].flags.c_contiguous
    block: Array = np.empty((ends[-1], _BLOCK), dtype).T if across else np.empty((_BLOCK, ends[-1]), dtype)
    for start in range(0, rows, _BLOCK):
        height = min(_BLOCK, rows - start)
        for part, end in zip(columns, ends, strict=True):
            block[:height, end - part.shape[1] : end] = part[start : start + height]
        total += block[:height].T @ block[:height]
    return total


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
    """The comparison of two updates of one module; a missing one counts as zero."""

    norm_a: float  # Frobenius norms
    norm_b: float
    product: float  # Frobenius inner product
    change: float  # norm of the difference
    spectrum_a: tuple[float, ...] = ()  # falling singular values, one a rank; right to 1e-7 of the norm
    spectrum_b: tuple[float, ...] = ()
    # Principal angles in radians, rising, between the column spaces (inputs) and the row spaces; right to 1e-6.
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

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures that `diff --weights` has of a module and of all."""
        names = ("norm_a", "norm_b", "cosine", "relative_change")
        return {name: getattr(self, name) for name in names}


def compare(a: LowRank | None, b: LowRank | None, *, shapes: bool = True) -> UpdateComparison:
    """Compare two updates of one module, of which one may be missing; their ranks may differ."""
    if a is not None and b is not None and a.same(b):
        b = a
    updates = [update for update in ((a,) if a is b else (a, b)) if update is not None]
    if len({update.shape for update in updates}) != 1:
        raise ValueError(f"updates of {[update.shape for update in updates]}")
    lefts, rights = [update.a for update in updates], [update.b for update in updates]
    gram = Gram.of(lefts, rights)
    # The weights of the terms a_k b_k that add up to each of the updates; nothing of one that is missing.
    ours, theirs = (
        np.concatenate([np.full(part.a.shape[1], part.scale * (part is update)) for part in updates])
        for update in (a, b)
    )
    sums = (ours, theirs, ours - theirs)
    norms, product = [gram.norm(weights) for weights in sums], gram.product(ours, theirs)
    if shapes or None in norms:
        left = np.concatenate(lefts, axis=1, dtype=np.float64)
        right = np.concatenate(rights, dtype=np.float64)
        cores = _Cores.of(left, right)
    if None in norms:  # something cancelled in the Gram matrices
        product = float((cores.core(ours) * cores.core(theirs)).sum())
    norm_a, norm_b, change = (
        float(np.linalg.norm(cores.core(weights))) if norm is None else norm
        for norm, weights in zip(norms, sums, strict=True)
    )
    figures = norm_a, norm_b, product, change
    if not shapes:
        return UpdateComparison(*figures)
    spectra, angles = cores.shapes(ours, theirs)
    spaced = (tuple(part.tolist()) for part in angles)
    return UpdateComparison(*figures, _fitted(spectra[0], a), _fitted(spectra[1], b), *spaced)


def _fitted(spectrum: Array, update: LowRank | None) -> tuple[float, ...]:
    """Return as many singular values as the update can have."""
    return () if update is None else tuple(spectrum.tolist()[: min(update.a.shape[1], *update.shape)])


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
            triangles.append(_triangle(columns / np.where(length > 0, length, 1.0)))
            lengths.append(length)
        return cls(triangles[0], triangles[1], lengths[0] * lengths[1])

    def core(self, weights: Array) -> Array:
        """Return a small matrix that is a sum of the terms, in orthonormal bases that all sums share."""
        return np.asarray((self.left * (weights * self.lengths)) @ self.right.T)

    def shapes(self, ours: Array, theirs: Array) -> tuple[list[Array], list[Array]]:
        """Return the singular values of two sums, and the angles between their column and row spaces."""
        cores = [self.core(weights) for weights in (ours, theirs)]
        (our_columns, our_rows), (their_columns, their_rows) = (spaces(core) for core in cores)
        angles = [angles_between(our_columns, their_columns), angles_between(our_rows, their_rows)]
        return [np.linalg.svd(core, compute_uv=False) for core in cores], angles


def _triangle(columns: Array) -> Array:
    """Return R of the QR decomposition, block by block (Demmel et al., "Communication-optimal QR and LU", 2012, section 3)."""
    width = columns.shape[1]
    blocks = len(columns) // (4 * width)
    cut = blocks * 4 * width
    if blocks > 1:
        tops: Any = np.linalg.qr(columns[:cut].reshape(blocks, 4 * width, width), mode="r")
        columns = np.concatenate([np.asarray(tops).reshape(-1, width), columns[cut:]])
    upper: Any = np.linalg.qr(columns, mode="r")
    return np.asarray(upper)


def joined(parts: Sequence[UpdateComparison]) -> UpdateComparison:
    """Return the comparison of block-diagonal updates: squares add, spectra and angles are put together."""
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
