"""Merging in shared bases: against the formulas of the papers on whole matrices in float64, and laws of each method."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.comparison.cores import LowRank
from fusery.registry.comparison.methods import METHODS, CombinedUpdate, Method, WeightedUpdate, combine

Array = np.ndarray[Any, Any]

M, N = 30, 21
MERGED: tuple[Method, ...] = ("core", "knots", "tsv")
merged = st.sampled_from(MERGED)
seeds = st.integers(0, 2**32 - 1)
ranks = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def updates(seed: int, ranks: list[int]) -> list[WeightedUpdate]:
    random = np.random.default_rng(seed)
    parts = []
    for number, rank in enumerate(ranks):
        a, b = random.standard_normal((M, rank)), random.standard_normal((rank, N)) * 0.05
        scale, weight = random.choice([1.0, 20.0, 0.5]), random.choice([1.0, 0.7, -0.3])
        parts.append(
            WeightedUpdate(number, LowRank(a.astype(np.float32), b.astype(np.float32), scale), weight)
        )
    return parts


def dense(part: WeightedUpdate) -> Array:
    whole: Array = part.factor * (part.update.a.astype(np.float64) @ part.update.b.astype(np.float64))
    return whole


def product(made: CombinedUpdate) -> Array:
    assert made.a is not None and made.b is not None
    return np.asarray(made.a.astype(np.float64) @ made.b.astype(np.float64))


def near(found: Array, expected: Array) -> bool:
    return bool(np.linalg.norm(found - expected) <= 2e-5 * max(1e-3, float(np.linalg.norm(expected))))


def ties(matrices: list[Array], density: float) -> Array:
    """Return TIES-Merging as its paper describes it (arXiv 2306.01708, algorithm 1), number by number; a millionth is zero."""
    trimmed = []
    for matrix in matrices:
        matrix = np.where(np.abs(matrix) > 1e-6 * np.abs(matrix).max(), matrix, 0.0)
        order = np.argsort(-np.abs(matrix), axis=None)[: max(1, int(density * matrix.size))]
        kept = np.zeros(matrix.size)
        kept[order] = matrix.ravel()[order]
        trimmed.append(kept)
    merged = np.zeros(matrices[0].size)
    for place in range(merged.size):
        numbers = [kept[place] for kept in trimmed]
        agreeing = [number for number in numbers if number * sum(numbers) > 0]
        merged[place] = sum(agreeing) / max(1, len(agreeing))
    return merged.reshape(matrices[0].shape)


def svd(matrix: Array, rank: int) -> tuple[Array, Array, Array]:
    p, s, q = np.linalg.svd(matrix, full_matrices=False)
    return p[:, :rank], s[:rank], q[:rank]


def core_space(parts: list[WeightedUpdate], density: float) -> Array:
    """Return arXiv 2509.17786, section 4: the stacked factors' singular vectors, the cores in them, and TIES on the cores."""
    pieces = [svd(dense(part), part.update.a.shape[1]) for part in parts]
    lefts = np.concatenate([p * np.sqrt(s) for p, s, _ in pieces], axis=1)
    rights = np.concatenate([np.sqrt(s)[:, None] * q for _, s, q in pieces])
    left, right = np.linalg.svd(lefts, full_matrices=False)[0], np.linalg.svd(rights, full_matrices=False)[2]
    return left @ ties([left.T @ dense(part) @ right.T for part in parts], density) @ right


def knots(parts: list[WeightedUpdate], density: float) -> Array:
    """Return arXiv 2410.19735, section 4: the singular vectors of the updates side by side, outputs first, and TIES on S V."""
    stacked = np.concatenate([dense(part).T for part in parts], axis=1)
    p, s, q = svd(stacked, min(N, sum(part.update.a.shape[1] for part in parts)))
    return (p @ ties(np.split(s[:, None] * q, len(parts), axis=1), density)).T


def task_singular_vectors(parts: list[WeightedUpdate]) -> Array:
    """Return arXiv 2412.00081, section 4.2: singular vectors side by side, the nearest orthonormal ones, the values between."""
    pieces = [svd(dense(part), min(part.update.a.shape[1], N // len(parts))) for part in parts]

    def nearest(columns: Array) -> Array:
        p, _, q = np.linalg.svd(columns, full_matrices=False)
        return np.asarray(p @ q)

    left = nearest(np.concatenate([p for p, _, _ in pieces], axis=1))
    right = nearest(np.concatenate([q.T for _, _, q in pieces], axis=1))
    return np.asarray(left * np.concatenate([s for _, s, _ in pieces]) @ right.T)


@given(seeds, ranks, merged, st.sampled_from([0.2, 0.5, 1.0]))
def test_equals_the_papers_formula_on_whole_matrices(
    seed: int, ranks: list[int], method: Method, density: float
) -> None:
    parts = updates(seed, ranks)
    expected = {
        "core": lambda: core_space(parts, density),
        "knots": lambda: knots(parts, density),
        "tsv": lambda: task_singular_vectors(parts),
    }[method]()
    made = combine(parts, method, rank=sum(ranks), density=density)
    assert near(product(made), expected)
    # Cut to a rank, it is the nearest update of that rank.
    rank = max(ranks)
    p, s, q = svd(expected, rank)
    cut = combine(parts, method, rank=rank, density=density)
    assert cut.a is not None and cut.a.shape == (M, rank)
    assert near(product(cut), p * s @ q)


@given(seeds, st.integers(1, 5), st.integers(1, 3), merged)
def test_equal_updates_merge_to_themselves(seed: int, rank: int, count: int, method: Method) -> None:
    [part] = updates(seed, [rank])
    parts = [WeightedUpdate(number, part.update, part.weight) for number in range(count)]
    made = combine(parts, method, rank=rank)
    assert near(product(made), dense(part))


def orthogonal(seed: int, ranks: list[int]) -> list[WeightedUpdate]:
    """Return updates of which no two have inputs or outputs in common."""
    random = np.random.default_rng(seed)
    inputs, outputs = (np.linalg.qr(random.standard_normal((size, size)))[0] for size in (M, N))
    parts, start = [], 0
    for number, rank in enumerate(ranks):
        own = slice(start, start + rank)
        # Of equal singular values, the bases of Core Space and KnOTS would mix the updates.
        a, b = inputs[:, own] * 1.5 ** np.arange(start, start + rank), outputs[:, own].T
        parts.append(WeightedUpdate(number, LowRank(a.astype(np.float32), b.astype(np.float32), 2.0), 1.0))
        start += rank
    return parts


@given(seeds, ranks, merged)
def test_updates_without_a_common_subspace_are_retained_whole(
    seed: int, ranks: list[int], method: Method
) -> None:
    parts = orthogonal(seed, ranks)
    made = combine(parts, method, rank=sum(ranks))
    assert near(product(made), np.asarray(sum(map(dense, parts))))
    for shared in made.sources.values():
        assert shared.product == pytest.approx(shared.norm, rel=1e-4)
        assert shared.change <= 1e-6 * shared.norm


@given(seeds, ranks, merged, st.sampled_from([0.5, 1.0]), st.randoms(use_true_random=False))
def test_neither_order_nor_factors_matter(
    seed: int, ranks: list[int], method: Method, density: float, shuffle: Any
) -> None:
    parts = updates(seed, ranks)
    expected = product(combine(parts, method, rank=sum(ranks), density=density))
    random, others = np.random.default_rng(seed), []
    for part in parts:
        mix = np.linalg.qr(random.standard_normal((part.update.a.shape[1],) * 2))[0] * random.uniform(0.3, 3)
        a, b = part.update.a @ mix, np.linalg.inv(mix) @ part.update.b
        others.append(WeightedUpdate(part.number, LowRank(a, b, part.update.scale), part.weight))
    shuffle.shuffle(others)
    assert near(product(combine(others, method, rank=sum(ranks), density=density)), expected)


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from(METHODS))
def test_shares_of_the_sources_are_those_of_whole_matrices(
    seed: int, rank: int, count: int, method: Method
) -> None:
    parts = updates(seed, [rank] * count)

    def mask(number: int, which: str, shape: tuple[int, ...]) -> Array:
        return np.random.default_rng([number, len(which)]).random(shape) < 0.5

    made = combine(parts, method, rank=rank * count if method == "cat" else rank, density=0.5, mask=mask)
    new = product(made)
    size = max(float(np.linalg.norm(dense(part))) for part in parts) + float(np.linalg.norm(new))
    for part in parts:
        inputs = np.linalg.qr(part.update.a.astype(np.float64))[0]
        change = np.square(inputs.T @ (new - dense(part) / part.weight)).sum()
        expected = float(np.vdot(new, dense(part))), float(np.vdot(dense(part), dense(part))), float(change)
        shared = made.sources[part.number]
        assert (shared.product, shared.norm, shared.change) == pytest.approx(expected, abs=2e-4 * size**2)
    whole = np.asarray(sum(map(dense, parts)))
    assert made.product == pytest.approx(float(np.vdot(new, whole)), abs=1e-5 * size**2)


@pytest.mark.parametrize("method", MERGED)
def test_updates_of_zero_leave_zero_or_the_others(method: Method) -> None:
    [part] = updates(3, [2])
    zero = LowRank(np.zeros((M, 2), np.float32), np.zeros((2, N), np.float32))
    nothing = combine([WeightedUpdate(0, zero, 1.0)], method, rank=2)
    assert not product(nothing).any()
    assert nothing.retained is None
    both = combine([part, WeightedUpdate(1, zero, 1.0), WeightedUpdate(2, part.update, 0.0)], method, rank=4)
    assert near(product(both), dense(part))


@pytest.mark.parametrize("method", MERGED)
@pytest.mark.parametrize("ranks", [[1], [2], [1, 1]], ids=str)
def test_the_default_density_retains_something_of_small_ranks(method: Method, ranks: list[int]) -> None:
    made = combine(updates(5, ranks), method, rank=sum(ranks), density=0.2)
    assert product(made).any()
    assert made.retained is not None and made.retained > 0.1


@pytest.mark.parametrize("method", ["svd", "tsv"])
def test_memory_does_not_grow_with_the_number_of_adapters(method: Method) -> None:
    parts = updates(6, [4] * 32)
    tracemalloc.start()
    try:
        combine(parts, method, rank=4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    terms = sum(part.update.a.shape[1] for part in parts)
    assert peak < 16 * 8 * terms**2  # bytes of matrices (terms, terms); there are 32 adapters


@pytest.mark.parametrize("method", MERGED)
def test_numbers_too_large_for_float32_are_left_to_the_caller(method: Method) -> None:
    parts = updates(4, [2, 2])
    large = [WeightedUpdate(part.number, part.update, 1e41) for part in parts]
    made = combine(large, method, rank=3)
    assert made.a is not None and made.b is not None
    assert not (np.isfinite(made.a).all() and np.isfinite(made.b).all())
