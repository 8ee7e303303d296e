"""The arithmetic of combining, against whole matrices in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.comparison.cores import LowRank
from fusery.registry.comparison.methods import (
    METHODS,
    CombinedUpdate,
    Method,
    WeightedUpdate,
    combine,
    largest_kept,
)
from fusery.registry.engine.arithmetic import NotFiniteError

Array = np.ndarray[Any, Any]


@st.composite
def updates(draw: st.DrawFn, *, rank: int | None = None, number: int = 0) -> WeightedUpdate:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, 6)) if rank is None else rank
    a, b = random.standard_normal((30, rank)), random.standard_normal((rank, 21)) * 0.05
    for column in range(rank):
        other = draw(st.integers(0, rank - 1))
        kind = draw(st.sampled_from(["own", "own", "own", "zero", "equal", "opposite", "near"]))
        if kind == "zero":
            b[column] = 0
        elif kind == "equal":
            a[:, column] = a[:, other]
        elif kind == "opposite":
            a[:, column], b[column] = -a[:, other], b[other]
        elif kind == "near":
            a[:, column] = a[:, other] + 1e-4 * random.standard_normal(30)
    scale = draw(st.sampled_from([1.0, 20.0, 0.5, 1e-3]))
    weight = draw(st.sampled_from([1.0, 0.7, -0.3, 0.0]))
    return WeightedUpdate(number, LowRank(a.astype(np.float32), b.astype(np.float32), scale), weight)


@st.composite
def several(draw: st.DrawFn, *, one_rank: bool = False) -> list[WeightedUpdate]:
    rank = draw(st.integers(1, 5)) if one_rank else None
    found = [draw(updates(rank=rank, number=number)) for number in range(draw(st.integers(1, 3)))]
    if len(found) > 1 and draw(st.booleans()):  # combine an adapter with itself
        found[1] = WeightedUpdate(1, found[0].update, found[1].weight)
    return found


def dense(parts: list[WeightedUpdate]) -> Array:
    total: Array = np.zeros(parts[0].update.shape)
    for part in parts:
        total += part.factor * (part.update.a.astype(np.float64) @ part.update.b.astype(np.float64))
    return total


def product(made: CombinedUpdate) -> Array:
    assert made.a is not None
    assert made.b is not None
    assert made.a.dtype == made.b.dtype == np.float32
    found: Array = made.a.astype(np.float64) @ made.b.astype(np.float64)
    return found


def size_of(parts: list[WeightedUpdate]) -> float:
    """Return the scale that errors are measured against: the terms, which may cancel in the sum."""
    terms = [
        abs(part.factor) * np.linalg.norm(part.update.a, axis=0) * np.linalg.norm(part.update.b, axis=1)
        for part in parts
    ]
    return float(np.concatenate(terms).sum())


def test_factors_that_cancel_leave_nothing() -> None:
    """An update of exactly zero: its Gram matrices hold rounding errors, which once came out as an update."""
    generator = np.random.default_rng(0)
    for seed in range(30):
        v = np.random.default_rng(seed).standard_normal(24).astype(np.float32)
        w = (generator.standard_normal(21) / 20).astype(np.float32)
        update = LowRank(a=np.stack([v, -v], axis=1), b=np.stack([w, w]), scale=1.0)
        made = combine([WeightedUpdate(0, update, 1.0)], "svd", rank=1)
        assert float(np.linalg.norm(product(made))) <= 1e-6


@given(several(), st.integers(1, 8))
def test_svd_gives_the_nearest_update_of_a_rank(parts: list[WeightedUpdate], rank: int) -> None:
    whole = dense(parts)
    values = np.linalg.svd(whole, compute_uv=False)
    made = combine(parts, "svd", rank=rank)
    size = size_of(parts)
    best = math.sqrt(np.square(values[rank:]).sum())
    found = float(np.linalg.norm(product(made) - whole))
    assert abs(found - best) <= 2e-6 * size
    assert made.a is not None
    assert made.a.shape == (30, rank)
    # The reported share equals the true one.
    assert made.norm == pytest.approx(np.square(values).sum(), rel=1e-6, abs=1e-13 * size**2)
    assert made.product == pytest.approx(np.square(values[:rank]).sum(), rel=1e-6, abs=1e-13 * size**2)


@given(several(), st.sampled_from(["svd", "cat"]))
def test_of_full_rank_everything_is_kept(parts: list[WeightedUpdate], method: Method) -> None:
    rank = sum(part.update.a.shape[1] for part in parts)
    made = combine(parts, method, rank=rank + 2)
    assert np.abs(product(made) - dense(parts)).max() <= 1e-6 * size_of(parts)
    assert made.product == made.norm
    # A sufficient rank loses nothing.
    cut = combine(parts, "svd", rank=max(1, np.linalg.matrix_rank(dense(parts))))
    assert np.abs(product(cut) - dense(parts)).max() <= 2e-6 * size_of(parts)


def nothing_left_out(number: int, which: str, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng([number, len(which), *shape]).random(shape) < 0.5


@given(several(one_rank=True), st.sampled_from(METHODS), st.sampled_from([0.3, 0.5, 1.0]))
def test_the_figures_are_those_of_the_factors(
    parts: list[WeightedUpdate], method: Method, density: float
) -> None:
    rank = parts[0].update.a.shape[1] * (len(parts) if method == "cat" else 1)
    asked: dict[str, Any] = {"rank": rank, "density": density, "mask": nothing_left_out}
    made = combine(parts, method, **asked)
    whole, new = dense(parts), product(made)
    size = max(size_of(parts), float(np.linalg.norm(new)))
    for found, expected in (
        (made.norm, np.vdot(whole, whole)),
        (made.product, np.vdot(whole, new)),
        (made.square, np.vdot(new, new)),
    ):
        assert found == pytest.approx(expected, abs=1e-5 * size**2)


@given(
    st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, -2.0, 3.0]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.2, 0.5, 0.99, 1.0]),
)
def test_the_largest_numbers_are_kept(values: list[float], density: float) -> None:
    tensor = np.array(values, np.float32)
    kept = int(density * len(values))
    order = sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))
    expected = np.zeros_like(tensor)
    expected[order[:kept]] = tensor[order[:kept]]
    assert np.array_equal(largest_kept(tensor, density), expected)


def test_ties_by_hand() -> None:
    """The example has one column, so that each number stands for itself.

    Of 4, -1, 0.5 and -3, 2, 0.4 two thirds are kept: 4, -1 and -3, 2.  The sums 1 and 1 elect plus, and so 4 and 2; what was
    trimmed is zero.
    """
    one = np.array([[1.0]], np.float32)
    first, second = (np.array([row], np.float32).T for row in ([4, -1, 0.5], [-3, 2, 0.4]))
    parts = [WeightedUpdate(number, LowRank(a, one), 1.0) for number, a in enumerate((first, second))]
    made = combine(parts, "ties", rank=1, density=0.7)
    assert made.a is not None
    assert made.a.ravel().tolist() == [4.0, 2.0, 0.0]


def test_dare_by_hand() -> None:
    """What the mask keeps is divided by the density, and each factor takes the root of the weight."""
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 8]], np.float32)
    masks = {
        "lora_a": np.array([[True, False], [False, True]]),
        "lora_b": np.array([[False, True], [True, False]]),
    }
    parts = [WeightedUpdate(0, LowRank(a, b, 1.0), 0.25)]
    made = combine(parts, "dare", rank=2, density=0.5, mask=lambda number, which, shape: masks[which])
    assert made.a is not None and made.b is not None
    assert (made.a.tolist(), made.b.tolist()) == ([[1, 0], [0, 4]], [[0, 6], [7, 0]])


THREADED = """
import hashlib
import numpy as np
from fusery.registry.comparison.methods import LowRank, WeightedUpdate, combine
random = np.random.default_rng(0)
def update(rows, columns):
    factors = random.standard_normal((rows, 64)), random.standard_normal((64, columns))
    return LowRank(*(factor.astype(np.float32) for factor in factors), 2.0)
for rows, columns in ((1111, 640),):
    for method in ("svd", "core", "knots", "tsv"):
        made = combine([WeightedUpdate(number, update(rows, columns), 0.3) for number in range(2)], method, rank=48)
        print(hashlib.sha256(made.a.tobytes() + made.b.tobytes()).hexdigest())
"""


@pytest.mark.timing
def test_how_many_threads_blas_has_changes_no_byte() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", THREADED],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for threads in ("1", "4")
    }
    assert len(found) == 1


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_is_refused(method: Method) -> None:
    for bad in (math.inf, math.nan):
        a = np.ones((5, 2), np.float32)
        a[3, 1] = bad
        parts = [WeightedUpdate(number, LowRank(a, np.ones((2, 4), np.float32)), 1.0) for number in range(2)]
        with pytest.raises(NotFiniteError):
            combine(parts, method, rank=2)
