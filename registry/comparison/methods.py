"""Combine the low-rank updates of one module: PEFT's methods, and truncation without large matrices.

An update is U = s A B with A (m, r) and B (r, n), PEFT's `lora_A` and `lora_B` transposed.  The names are those of `combination_type`
in `LoraModel.add_weighted_adapter` of PEFT (peft/tuners/lora/model.py, peft/utils/merge_utils.py):

- `cat`, `svd`: the weighted sum of the updates, whole, or the nearest one of a smaller rank.
- `linear`, `ties`, `dare` (PEFT's `dare_linear`): weighted sums of the A and of the B, whose distance from that sum is measured.
- `core`, `knots`, `tsv`, which PEFT lacks: merge the updates by TIES or TSV in bases that they share (see `core_space`).

Sources: TIES-Merging (Yadav et al., arXiv 2306.01708); DARE (Yu et al., arXiv 2311.03099).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add, mul
from typing import Literal, get_args

import numpy as np

from ..engine.arithmetic import Array, NotFiniteError
from .core_space import Rule, Terms, in_core_space, knots_basis, signs_of, task_singular_vectors
from .cores import RANK_TOLERANCE, Gram, LowRank, scalar_products

Method = Literal["svd", "cat", "linear", "ties", "dare", "core", "knots", "tsv"]
METHODS: tuple[Method, ...] = get_args(Method)

SPARSE = ("ties", "dare")  # Methods that keep a share of the numbers, the density
ALIGNED = ("core", "knots")  # Methods that apply TIES in a shared basis; the density is optional
OF_ANY_RANK = ("svd", "tsv", *ALIGNED)  # Methods whose result can be cut to a rank
OF_ONE_RANK = ("linear", "ties", "dare")  # Methods that add up factors, which must be of one shape for that

# From the number of an update, the name of its factor (`lora_a`, `lora_b`) and its shape to what DARE keeps, as booleans
Mask = Callable[[int, str, tuple[int, ...]], Array]

# Multiplications in a product of matrices up to which OpenBLAS uses one thread (its interface/gemm.c)
_ALONE = 1 << 18


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
class Shared:
    """What a combined update shares with U, one of the updates that were combined."""

    product: float  # Frobenius inner product of the new update with U times its weight
    norm: float  # squared norm of U times its weight
    change: float  # squared norm of new update - U on the inputs that U reads, the span of its A

    @classmethod
    def joined(cls, parts: Sequence[Shared]) -> Shared:
        """Return the figures of several modules together."""
        columns = zip(*((part.product, part.norm, part.change) for part in parts), strict=True)
        return cls(*map(math.fsum, columns))


@dataclass(frozen=True, slots=True)
class CombinedUpdate:
    """A combined update of one module, and its share of the weighted sum of the updates, S."""

    norm: float  # squared Frobenius norm of S
    product: float  # Frobenius inner product of the new update with S
    square: float  # squared norm of the new update
    a: Array | None = None  # (m, rank), float32; None of several modules
    b: Array | None = None  # (rank, n), float32
    sources: Mapping[int, Shared] = field(default_factory=dict)  # by the number of an update

    @classmethod
    def joined(cls, parts: Sequence[CombinedUpdate]) -> CombinedUpdate:
        """Return the figures of updates that share no numbers, taken together."""
        norm, product = math.fsum(part.norm for part in parts), math.fsum(part.product for part in parts)
        numbers = dict.fromkeys(number for part in parts for number in part.sources)
        sources = {
            number: Shared.joined([part.sources[number] for part in parts if number in part.sources])
            for number in numbers
        }
        return cls(norm, product, math.fsum(part.square for part in parts), sources=sources)

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
        if method == "cat" or (method == "svd" and sum(part.update.a.shape[1] for part in parts) <= rank):
            return _whole(parts, rank)
        if method == "svd":
            return _truncated(parts, rank)
        if method == "tsv":
            most = max(1, min(parts[0].update.shape) // len(parts))
            return _truncated(parts, rank, lambda terms: task_singular_vectors(terms, most))
        if method == "core":
            return _truncated(parts, rank, lambda terms: in_core_space(terms, _ties(density)))
        if method == "knots":
            return _knots(parts, rank, density)
        lefts, rights = _factors(parts, method, density, mask)
        return _measured(parts, _padded(lefts, 1, rank), _padded(rights, 0, rank))


def _ties(density: float) -> Rule:
    """Return TIES-Merging: trim each matrix, elect the sign of each entry, and take the mean of the numbers with it.

    Trimming keeps one number or more: matrices in a shared basis are small.
    """

    def merge(matrices: Sequence[Array]) -> Array:
        trimmed = [largest_kept(_without_rounding(matrix), density, least=1) for matrix in matrices]
        return _elected(trimmed, [np.float32(1)] * len(matrices))

    return merge


def _without_rounding(matrix: Array) -> Array:
    """Return a matrix with zeros in place of rounding errors, which TIES would count in the mean."""
    sizes = np.abs(matrix)
    return np.asarray(matrix * (sizes > RANK_TOLERANCE * sizes.max(initial=0.0)))


def _whole(parts: Sequence[WeightedUpdate], rank: int) -> CombinedUpdate:
    """Return the sum as it is: the factors side by side, PEFT's `cat`."""
    gram = Gram.of([part.update.a for part in parts], [part.update.b for part in parts])
    factors = _factors_of_terms(parts)
    norm = max(0.0, gram.product(factors, factors))
    sources = _shared(parts, gram.left, gram.right, factors * gram.lengths, factors * gram.lengths)
    lefts = [np.multiply(part.update.a, np.float32(part.factor), dtype=np.float32) for part in parts]
    rights = [part.update.b.astype(np.float32, copy=False) for part in parts]
    a, b = _padded(np.concatenate(lefts, axis=1), 1, rank), _padded(np.concatenate(rights), 0, rank)
    return CombinedUpdate(norm, norm, norm, a, b, sources)


def _factors_of_terms(parts: Sequence[WeightedUpdate]) -> Array:
    return np.concatenate([np.full(part.update.a.shape[1], part.factor) for part in parts])


def _shared(
    parts: Sequence[WeightedUpdate], left: Array, right: Array, sums: Array, made: Array
) -> dict[int, Shared]:
    """Return what each update shares with the new one, from scalar products (terms, terms), and the factors (terms,) in sum and new."""
    both, sources, end = left * right, {}, 0
    for part in parts:
        own, end = slice(end, end + part.update.a.shape[1]), end + part.update.a.shape[1]
        alone = np.zeros(len(left))
        alone[own] = sums[own]
        seen = left[own] * (made - alone / (part.weight or 1.0))
        changed = _on_inputs(left[own, own], seen, seen @ right)
        sources[part.number] = Shared(float(alone @ both @ made), float(alone @ both @ alone), changed)
    return sources


def _on_inputs(inner: Array, seen: Array, across: Array) -> float:
    """Return the squared norm of a change D on the span of columns C: C'C is `inner`, C'D is `seen` B, and `across` is `seen` B B'."""
    return max(0.0, float(((np.linalg.pinv(inner, 1e-10, hermitian=True) @ seen) * across).sum()))


def _truncated(
    parts: Sequence[WeightedUpdate], rank: int, merge: Callable[[Terms], Array] | None = None
) -> CombinedUpdate:
    """Return the nearest update of a rank to the sum, PEFT's `svd`, or to a merged core."""
    terms = Terms.of([part.update for part in parts], [part.weight for part in parts])
    middle = terms.signs if merge is None else terms.middle(merge(terms))
    left, right, core, values = terms.cut(middle, rank)
    sources = {}
    for part, own in zip(parts, terms.own, strict=True):
        columns, alone = terms.x[:, own], terms.core(own)  # one at a time: each is as large as the sum
        seen = columns.T @ (core - alone / (part.weight or 1.0))
        changed = _on_inputs(columns.T @ columns, seen, seen)
        sources[part.number] = Shared(float((core * alone).sum()), float(np.square(alone).sum()), changed)
    squares = np.square(values)
    norm, square = float(squares.sum()), float(squares[:rank].sum())
    product = square
    if merge is not None:
        whole = terms.core(slice(None))
        norm, product = float(np.square(whole).sum()), float((core * whole).sum())
    left = left.astype(np.float32)
    a = np.asarray(sum(_tall(part.update.a, left[own]) for part, own in zip(parts, terms.own, strict=True)))
    b = _rows(parts, terms, right)
    return CombinedUpdate(norm, product, square, _padded(a, 1, rank), _padded(b, 0, rank), sources)


def _knots(parts: Sequence[WeightedUpdate], rank: int, density: float) -> CombinedUpdate:
    """Return the updates merged by TIES in KnOTS' basis of the outputs, where each update is (m, rank of the basis)."""
    terms = Terms.of([part.update for part in parts], [part.weight for part in parts])
    coefficients, b = knots_basis(terms)
    pairs = zip(parts, coefficients, strict=True)
    a = _ties(density)([_tall(part.update.a, small.astype(np.float32)) for part, small in pairs])
    if not np.isfinite(a).all():
        return CombinedUpdate(math.nan, math.nan, math.nan, a, b)
    if len(b) > rank:
        # The rows of the basis are orthonormal, so the update has the singular vectors of A, times the basis.
        vectors = np.linalg.eigh(scalar_products([a]))[1][:, : -rank - 1 : -1]
        vectors = vectors * signs_of(vectors)
        a, b = _tall(a, vectors.astype(np.float32)), vectors.T @ b
    return _measured(parts, _padded(a, 1, rank), _padded(_rows(parts, terms, b), 0, rank))


def _rows(parts: Sequence[WeightedUpdate], terms: Terms, coefficients: Array) -> Array:
    """Return coefficients (rank, terms) times the rows of all B: (rank, n), float32."""
    coefficients, pairs = coefficients.astype(np.float32), zip(parts, terms.own, strict=True)
    return np.asarray(sum(_wide(coefficients[:, own], part.update.b) for part, own in pairs))


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
        made.append(
            _elected(tensors, weights) if method == "ties" else reduce(add, map(mul, tensors, weights))
        )
    return made[0], made[1]


def largest_kept(tensor: Array, density: float, *, least: int = 0) -> Array:
    """Return a tensor with its largest numbers alone, and zeros: TIES' trim, PEFT's `magnitude_based_pruning`."""
    if density >= 1:
        return tensor
    kept = max(min(least, tensor.size), int(density * tensor.size))
    if not kept:
        return np.zeros_like(tensor)
    sizes = np.abs(tensor).reshape(-1)
    # Numbers without a sign are ordered as their bits are, which takes half the time.
    bound = np.partition(sizes.view(f"u{sizes.itemsize}"), sizes.size - kept)[sizes.size - kept].view(
        sizes.dtype
    )
    chosen = sizes > bound
    missing = kept - int(np.count_nonzero(chosen))
    if missing:
        chosen[np.flatnonzero(sizes == bound)[:missing]] = True
    return np.asarray(tensor * chosen.reshape(tensor.shape))


def _elected(tensors: Sequence[Array], weights: Sequence[np.float32]) -> Array:
    """Return the mean of those numbers that have the sign of their sum: TIES' elect and merge, PEFT's `disjoint_merge`."""
    signs = np.copysign(np.float32(1), sum(tensors[1:], start=tensors[0]))
    total, count = np.zeros_like(signs), np.zeros_like(signs)
    for tensor, weight in zip(tensors, weights, strict=True):
        agreeing = np.maximum(tensor * signs, np.float32(0))
        count += agreeing > 0
        total += agreeing * weight
    return np.asarray(total / np.maximum(count, np.float32(1)) * signs)


def _measured(parts: Sequence[WeightedUpdate], a: Array, b: Array) -> CombinedUpdate:
    """Return new factors with what their product has in common with the sum of the updates, right to 1e-5 or so."""
    factors = _factors_of_terms(parts)
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
    sources = _shared(parts, lefts, rights, sums, made)
    return CombinedUpdate(norm, float(sums @ both @ made), square, a, b, sources)


def _padded(factor: Array, axis: int, rank: int) -> Array:
    missing = rank - factor.shape[axis]
    if not missing:
        return factor
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, missing)
    return np.pad(factor, widths)
