"""Merge low-rank updates in shared orthonormal bases, as small matrices; their rows and columns are at most the sum of the ranks.

- `task_singular_vectors`: TSV-Merge (Gargiulo et al., "Task Singular Vectors", arXiv 2412.00081, section 4.2).  While no
  update has more singular vectors than TSV takes of it, this equals TSV in Core Space.
- `in_core_space`: Core Space (Panariello et al., arXiv 2509.17786, section 4).  A weighted sum there is the weighted sum of the updates, so
  only rules that are not linear, such as TIES, differ from `cat`.
- `knots_basis`: KnOTS (Stoica et al., arXiv 2410.19735, section 4), the basis of outputs in which updates are aligned.

Compared with github.com/AntoAndGar/task_singular_vectors (src/utils/TSVM_utils.py), apanariello4/core-space-merging (task_merger.py) and
gstoica27/KnOTS (task_merger.py).  There are two differences.  Weights and scales are applied before the merge.  The bases of Core Space come from
balanced factors, U = (P sqrt S) (sqrt S Q'), so that the result depends on the updates only, not on the sizes of A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.arithmetic import Array
from .cores import RANK_TOLERANCE, Gram, LowRank

# Merges matrices of one shape into a matrix of that shape
Rule = Callable[[Sequence[Array]], Array]

# Relative to the terms' largest, singular values below this are rounding: float64 Gram matrices lose their directions
_LOST = 1e-7

# Singular vectors of several updates that differ by less count as equal, since TSV would amplify the difference
_EQUAL = 1e-5


@dataclass(frozen=True, slots=True)
class Terms:
    """The rank-one terms a_k b_k of weighted updates: the coordinates of a_k and b_k in orthonormal bases of all a_k and all b_k."""

    x: Array  # (terms, terms): column k is a_k, X'X has the scalar products of the a_k; the rows are orthogonal
    y: Array  # (terms, terms): the same for the b_k
    signs: Array  # (terms,): of weight times scale
    first: Array  # (terms,): factor from column k of the updates' A to a_k
    second: Array  # (terms,): factor from row k of the updates' B to b_k
    own: tuple[slice, ...]  # of each update, its terms

    @classmethod
    def of(cls, updates: Sequence[LowRank], weights: Sequence[float]) -> Terms:
        """Return the terms of updates times weights; a_k and b_k have the same norm."""
        ranks = [update.a.shape[1] for update in updates]
        factors = np.repeat([w * update.scale for w, update in zip(weights, updates, strict=True)], ranks)
        gram = Gram.of([update.a for update in updates], [update.b for update in updates])
        root = np.sqrt(gram.lengths * np.abs(factors))
        x, y = (_root(unit * root * root[:, None]) for unit in (gram.left, gram.right))
        # The norms are `gram.columns` of A's columns, `gram.lengths / gram.columns` of B's rows, and `root` of a_k and b_k.
        first = np.divide(root, gram.columns, out=np.zeros_like(root), where=gram.lengths > 0)
        second = np.divide(root * gram.columns, gram.lengths, out=np.zeros_like(root), where=gram.lengths > 0)
        ends = np.cumsum([0, *ranks]).tolist()
        own = tuple(slice(*ends[number : number + 2]) for number in range(len(ranks)))
        return cls(x, y, np.sign(factors), first, second, own)

    def core(self, own: slice) -> Array:
        """Return one weighted update in the two bases, (terms, terms)."""
        return np.asarray((self.x[:, own] * self.signs[own]) @ self.y[:, own].T)

    def middle(self, core: Array) -> Array:
        """Return T, (terms, terms), with X T Y' = `core`; the terms must span the columns and rows of `core`."""
        return np.asarray(_inverse(self.x) @ core @ _inverse(self.y).T)

    def cut(self, middle: Array, rank: int) -> tuple[Array, Array, Array, Array]:
        """Return the nearest update of a rank: coefficients (terms, rank) of A and (rank, terms) of B, the core, all singular values.

        With A'A = X'X and B B' = Y'Y, A T B has the singular values of X T Y' = P S Q'.  Its factors are A T Y' Q / S and
        P' X T B, so that only the retained values of S are inverted.  T (`middle`) is a matrix, or the diagonal of one.
        """
        through = _times(self.x, middle)
        ours, values, theirs = np.linalg.svd(through @ self.y.T)
        # The bound is relative to the terms and not to their sum: where they cancel, the sum is rounding.
        # The rows of X and Y are orthogonal, so the largest norm of a row is the largest singular value.
        longest = [float(np.linalg.norm(matrix, axis=1).max(initial=0.0)) for matrix in (self.x, self.y)]
        kept = values[:rank]
        nonzero = kept > _LOST * longest[0] * longest[1]
        inverse = np.divide(1.0, kept, out=np.zeros_like(kept), where=nonzero)
        left = _times((self.y.T @ theirs[:rank].T).T, middle.T).T * inverse
        right = (ours[:, :rank] * nonzero).T @ through
        turn = signs_of(left)
        core = (ours[:, :rank] * kept) @ theirs[:rank]
        return left * turn * self.first[:, None], right * turn[:, None] * self.second, core, values

    def decompositions(self) -> list[tuple[Array, Array, Array]]:
        """Return P (terms, k), S (k,) and Q (terms, k) of each update's decomposition P S Q', without singular values of zero."""
        made = []
        for own in self.own:
            lefts, across = np.linalg.qr(self.x[:, own])
            rights, down = np.linalg.qr(self.y[:, own])
            ours, values, theirs = np.linalg.svd((across * self.signs[own]) @ down.T)
            rank = int(np.count_nonzero(values > RANK_TOLERANCE * values[0])) if values.size else 0
            made.append((lefts @ ours[:, :rank], values[:rank], rights @ theirs[:rank].T))
        return made


def task_singular_vectors(terms: Terms, most: int) -> Array:
    """Return the core of TSV-Merge, (terms, terms): the singular vectors of all updates, made orthogonal, with their singular values.

    The nearest orthonormal vectors (Procrustes) replace them, so that updates do not interfere.  `most` bounds the vectors of each
    update: in the paper, min(m, n) / T with T updates of m x n.
    """
    parts = [(p[:, :most], s[:most], q[:, :most]) for p, s, q in terms.decompositions()]
    sizes = np.concatenate([s for _, s, _ in parts])
    lefts, rights = (_orthonormal([part[side] for part in parts]) for side in (0, 2))
    return np.asarray((lefts * sizes) @ rights.T)


def in_core_space(terms: Terms, rule: Rule) -> Array:
    """Return the core, (terms, terms), that a rule makes in Core Space; its bases are the singular vectors of the stacked factors."""
    parts = terms.decompositions()
    left, right = (_span([part[side] * np.sqrt(part[1]) for part in parts]) for side in (0, 2))
    merged = rule([(left.T @ p * s) @ (q.T @ right) for p, s, q in parts])
    return np.asarray(left @ merged @ right.T)


def knots_basis(terms: Terms) -> tuple[list[Array], Array]:
    """Return KnOTS' basis of the outputs: each update in it, (rank, k) for its A, and the basis, (k, terms) for all rows of B.

    The basis has the left singular vectors of the stack of all updates, [U_1' U_2' ...] of shape (n, T m).
    """
    basis = _span([q * s for _, s, q in terms.decompositions()])
    rows = (_inverse(terms.y) @ basis).T
    turn = signs_of(rows.T)
    inputs = [
        (terms.first[own] * terms.signs[own])[:, None] * (terms.y[:, own].T @ basis) * turn
        for own in terms.own
    ]
    return inputs, rows * turn[:, None] * terms.second


def _root(square: Array) -> Array:
    """Return X with X'X = `square`, which is symmetric; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh(square)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


def _inverse(root: Array) -> Array:
    """Return the pseudo-inverse of a matrix with orthogonal rows; rows that are only rounding count as zero."""
    squares = np.einsum("ij,ij->i", root, root)
    long = squares > RANK_TOLERANCE**2 * squares.max(initial=0.0)
    return np.asarray(root.T * np.divide(1.0, squares, out=np.zeros_like(squares), where=long))


def _times(matrix: Array, middle: Array) -> Array:
    return np.asarray(matrix * middle if middle.ndim == 1 else matrix @ middle)


def signs_of(columns: Array) -> Array:
    """Return the signs of the columns' largest numbers, to fix the sign of singular vectors, which LAPACK chooses."""
    if not columns.size:
        return np.ones(columns.shape[1])
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


def _span(columns: Sequence[Array]) -> Array:
    """Return the left singular vectors of the columns side by side, without those of singular values of zero."""
    vectors, values, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    return np.asarray(vectors[:, values > RANK_TOLERANCE * values.max(initial=0.0)])


def _orthonormal(columns: Sequence[Array]) -> Array:
    """Return the orthogonal polar factor of the columns side by side; equal columns share a direction."""
    ours, values, theirs = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    distinct = values > _EQUAL
    return np.asarray(ours[:, distinct] @ theirs[distinct])
