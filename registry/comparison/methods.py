"""Combine the low-rank updates of one module: PEFT's methods, and truncation without large matrices.

An update is U = s A B with A (m, r) and B (r, n), PEFT's `lora_A` and `lora_B` transposed.  The names are those of `combination_type`
in `LoraModel.add_weighted_adapter` of PEFT (peft/tuners/lora/model.py, peft/utils/merge_utils.py):

- `cat`, `svd`: the weighted sum of the updates, whole, or the nearest one of a smaller rank.
- `linear`, `ties`, `dare` (PEFT's `dare_linear`): weighted sums of the A and of the B, whose distance from that sum is measured.

Sources: TIES-Merging (Yadav et al., arXiv 2306.01708); DARE (Yu et al., arXiv 2311.03099).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..engine.arithmetic import Array, NotFiniteError
from .cores import Gram, LowRank, scalar_products

Method = Literal["svd", "cat", "linear", "ties", "dare"]
METHODS: tuple[Method, ...] = get_args(Method)

SPARSE = ("ties", "dare")  # Methods that keep a share of the numbers, the density
OF_ONE_RANK = ("linear", "ties", "dare")  # Methods that add up factors, which must be of one shape for that

# From the number of an update, the name of its factor (`lora_a`, `lora_b`) and its shape to what DARE keeps, as booleans
Mask = Callable[[int, str, tuple[int, ...]], Array]

# Multiplications in a product of matrices up to which OpenBLAS uses one thread (its interface/gemm.c)
_ALONE = 1 << 18

# Share of the largest singular values of the terms below which float64 Gram matrices know no direction
_LOST = 1e-7


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """One update and its weight in a combination."""

    number: int
    update: LowRank
    weight: float

    @property
    def factor(self) -> float:
        """Weight times scale."""
        return self.weight * self.update.scale


@dataclass(frozen=True, slots=True)
class CombinedUpdate:
    """A combined update of one module, and its share of the weighted sum of the updates, S."""

    norm: float  # squared Frobenius norm of S
    product: float  # Frobenius inner product of the new update with S
    square: float  # squared norm of the new update
    a: Array | None = None  # (m, rank), float32; None of several modules
    b: Array | None = None  # (rank, n), float32

    @classmethod
    def joined(cls, parts: Sequence[CombinedUpdate]) -> CombinedUpdate:
        """Return the figures of updates that share no numbers, taken together."""
        norm, product = math.fsum(part.norm for part in parts), math.fsum(part.product for part in parts)
        return cls(norm, product, math.fsum(part.square for part in parts))

    @property
    def retained(self) -> float | None:
        """The share of S that is there, <new, S> / <S, S>; None where S is zero."""
        return self.product / self.norm if self.norm else None

    @property
    def relative_error(self) -> float | None:
        """Norm of the difference of the two over that of S; None where S is zero."""
        if not self.norm:
            return None
        return math.sqrt(max(0.0, self.norm - 2 * self.product + self.square) / self.norm)


def combine(
    parts: Sequence[WeightedUpdate],
    method: Method,
    *,
    rank: int,
    density: float = 1.0,
    mask: Mask | None = None,
) -> CombinedUpdate:
    """Combine updates of one shape; `ties` and `dare` keep a `density` of each factor's numbers, `dare` those of the `mask`."""
    with np.errstate(over="ignore", invalid="ignore"):
        if method in ("svd", "cat"):
            if sum(part.update.a.shape[1] for part in parts) > rank:
                return _truncated(parts, rank)
            return _whole(parts, rank)
        lefts, rights = _factors(parts, method, density, mask)
        return _measured(parts, _padded(lefts, 1, rank), _padded(rights, 0, rank))


def _terms(parts: Sequence[WeightedUpdate]) -> tuple[Gram, Array]:
    gram = Gram.of([part.update.a for part in parts], [part.update.b for part in parts])
    return gram, _factor_of_terms(parts)


def _factor_of_terms(parts: Sequence[WeightedUpdate]) -> Array:
    return np.concatenate([np.full(part.update.a.shape[1], part.factor) for part in parts])


def _whole(parts: Sequence[WeightedUpdate], rank: int) -> CombinedUpdate:
    """Return the sum as it is: the factors side by side, PEFT's `cat`."""
    gram, factors = _terms(parts)
    norm = max(0.0, gram.product(factors, factors))
    lefts = [np.multiply(part.update.a, np.float32(part.factor), dtype=np.float32) for part in parts]
    rights = [part.update.b.astype(np.float32, copy=False) for part in parts]
    a, b = _padded(np.concatenate(lefts, axis=1), 1, rank), _padded(np.concatenate(rights), 0, rank)
    return CombinedUpdate(norm, norm, norm, a, b)


def _truncated(parts: Sequence[WeightedUpdate], rank: int) -> CombinedUpdate:
    """Return the nearest update of a rank to the sum, PEFT's `svd`, through matrices as small as the terms are many.

    With D the signs of the terms, A'A = X'X and B B' = Y'Y, A D B has the singular values of X D Y' = P S Q'.
    Its first factors are A D Y' Q / S and P' X D B: of what is inverted, S, only what is kept counts.
    """
    gram, factors = _terms(parts)
    lengths = gram.lengths * np.abs(factors)
    root, signs = np.sqrt(lengths), np.sign(factors)
    x, y = (_root(unit * root * root[:, None]) for unit in (gram.left, gram.right))
    core = (x * signs) @ y.T
    ours, values, theirs = np.linalg.svd(core)
    squares = np.square(values)
    norm, kept = float(squares.sum()), float(squares[:rank].sum())
    values = values[:rank]
    # Of the size of the terms, and not of what is left of them: where they cancel, that is rounding.
    # The rows of X and Y are orthogonal: the longest is their largest singular value.
    longest = [float(np.linalg.norm(matrix, axis=1).max(initial=0.0)) for matrix in (x, y)]
    nonzero_mask = values > _LOST * longest[0] * longest[1]
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=nonzero_mask)
    left = signs[:, None] * (y.T @ theirs[:rank].T) * inverse
    right = (ours[:, :rank] * nonzero_mask).T @ (x * signs)
    # Which of two signs a singular vector has is for the routine to choose: the largest number of each is positive here.
    if left.size:
        largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
        turn = np.where(largest < 0, -1.0, 1.0)
        left, right = left * turn, right * turn[:, None]
    # The columns of A are `gram.columns` long, the rows of B `gram.lengths / gram.columns`: here all of a term are `root` long.
    first = np.divide(root, gram.columns, out=np.zeros_like(root), where=gram.lengths > 0)
    second = np.divide(root * gram.columns, gram.lengths, out=np.zeros_like(root), where=gram.lengths > 0)
    left, right = (left * first[:, None]).astype(np.float32), (right * second).astype(np.float32)
    ends = np.cumsum([0, *(part.update.a.shape[1] for part in parts)]).tolist()
    slices = [slice(*ends[number : number + 2]) for number in range(len(parts))]
    a = sum(_tall(part.update.a, left[own]) for part, own in zip(parts, slices, strict=True))
    b = sum(_wide(right[:, own], part.update.b) for part, own in zip(parts, slices, strict=True))
    return CombinedUpdate(norm, kept, kept, _padded(np.asarray(a), 1, rank), _padded(np.asarray(b), 0, rank))


def _root(square: Array) -> Array:
    """Return X with X'X a symmetric matrix without negative eigenvalues; those that rounding made negative are zero."""
    values, vectors = np.linalg.eigh(square)
    root: Array = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return root


def _tall(a: Array, small: Array) -> Array:
    """Return a @ small in float32, in pieces that BLAS multiplies in one thread however many it may use."""
    a = np.ascontiguousarray(a, np.float32)
    height = max(1, _ALONE // max(1, small.size))
    cut = len(a) // height * height
    first: Array = (a[:cut].reshape(cut // height, height, a.shape[1]) @ small).reshape(cut, small.shape[1])
    return first if cut == len(a) else np.concatenate([first, a[cut:] @ small])


def _wide(small: Array, b: Array) -> Array:
    b = np.ascontiguousarray(b, np.float32)
    width = max(1, _ALONE // max(1, small.size))
    cut = b.shape[1] // width * width
    pieces = small @ b[:, :cut].reshape(len(b), cut // width, width).transpose(1, 0, 2)
    first: Array = pieces.transpose(1, 0, 2).reshape(len(small), cut)
    return first if cut == b.shape[1] else np.concatenate([first, small @ b[:, cut:]], axis=1)


def _factors(
    parts: Sequence[WeightedUpdate], method: Method, density: float, mask: Mask | None
) -> tuple[Array, Array]:
    """Return the factors that PEFT's `_generalized_task_arithmetic_weighted_adapter` gives, in float32."""
    made = []
    for which in ("lora_a", "lora_b"):
        tensors, weights = [], []
        for part in parts:
            tensor = part.update.a if which == "lora_a" else part.update.b
            tensor = tensor.astype(np.float32, copy=False)
            if method == "ties":
                tensor = largest_kept(tensor, density)
            elif method == "dare" and density < 1:
                assert mask is not None
                kept = mask(part.number, which, tensor.shape)
                tensor = tensor * kept
                tensor /= np.float32(density)
            tensors.append(tensor)
            sign = -1.0 if which == "lora_a" and part.factor < 0 else 1.0
            weights.append(np.float32(sign * math.sqrt(abs(part.factor))))
        made.append(_elected(tensors, weights) if method == "ties" else _sum(tensors, weights))
    return made[0], made[1]


def _sum(tensors: Sequence[Array], weights: Sequence[np.float32]) -> Array:
    total: Array = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += tensor * weight
    return total


def largest_kept(tensor: Array, density: float) -> Array:
    """Return a tensor with its largest numbers alone, and zeros: TIES' trim, PEFT's `magnitude_based_pruning`."""
    if density >= 1:
        return tensor
    kept = int(density * tensor.size)
    if not kept:
        return np.zeros_like(tensor)
    sizes = np.abs(tensor).reshape(-1)
    # Numbers without a sign are ordered as their bits are, which takes half the time.
    bound = np.partition(sizes.view(np.uint32), sizes.size - kept)[sizes.size - kept].view(np.float32)
    chosen = sizes > bound
    missing = kept - int(np.count_nonzero(chosen))
    if missing:
        chosen[np.flatnonzero(sizes == bound)[:missing]] = True
    array: Array = tensor * chosen.reshape(tensor.shape)
    return array


def _elected(tensors: Sequence[Array], weights: Sequence[np.float32]) -> Array:
    """Return the mean of those numbers that have the sign of their sum: TIES' elect and merge, PEFT's `disjoint_merge`."""
    signs = np.copysign(np.float32(1), sum(tensors[1:], start=tensors[0]))
    total, count = np.zeros_like(signs), np.zeros_like(signs)
    for tensor, weight in zip(tensors, weights, strict=True):
        agreeing = np.maximum(tensor * signs, np.float32(0))
        count += agreeing > 0
        total += agreeing * weight
    elected: Array = total / np.maximum(count, np.float32(1)) * signs
    return elected


def _measured(parts: Sequence[WeightedUpdate], a: Array, b: Array) -> CombinedUpdate:
    """Return new factors with what their product has in common with the sum of the updates, right to 1e-5 or so."""
    factors = _factor_of_terms(parts)
    lefts = scalar_products([*(part.update.a for part in parts), a], np.float32)
    rights = scalar_products([*(part.update.b.T for part in parts), b.T], np.float32)
    own = len(factors)
    if not (np.isfinite(lefts[:own, :own]).all() and np.isfinite(rights[:own, :own]).all()):
        raise NotFiniteError
    if not (np.isfinite(lefts).all() and np.isfinite(rights).all()):
        return CombinedUpdate(math.nan, math.nan, math.nan, a, b)
    sums, made = np.zeros(len(lefts)), np.zeros(len(lefts))
    sums[: len(factors)], made[len(factors) :] = factors, 1.0
    both = lefts * rights
    norm, square = (max(0.0, float(coefficients @ both @ coefficients)) for coefficients in (sums, made))
    return CombinedUpdate(norm, float(sums @ both @ made), square, a, b)


def _padded(factor: Array, axis: int, rank: int) -> Array:
    missing = rank - factor.shape[axis]
    if not missing:
        return factor
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, missing)
    return np.pad(factor, widths)
