"""Comparing updates through small matrices gives what whole matrices give, in extended precision."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.comparison.cores import (
    LowRank,
    UpdateComparison,
    angles_between,
    compare,
    effective_rank,
    overlap,
)
from fusery.registry.engine.arithmetic import NotFiniteError

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-5
EXTENDED = np.finfo(np.longdouble).eps < 1e-18
"""Whether this machine's long double is wider than double; where it is not, what cancels cannot be judged."""


def dense(update: LowRank) -> Array:
    product: Array = np.longdouble(update.scale) * (
        update.a.astype(np.longdouble) @ update.b.astype(np.longdouble)
    )
    return product


def norm(matrix: Array) -> float:
    return float(np.sqrt(np.square(matrix).sum()))


@st.composite
def factors(draw: st.DrawFn, rows: int, columns: int) -> LowRank:
    """Random factors: of full rank, with columns that are zero, equal, opposite or sums of others, of any scale."""
    rank = draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = random.standard_normal((rows, rank)), random.standard_normal((rank, columns))
    for column in range(rank):
        kind = draw(st.sampled_from(["own", "own", "own", "zero", "equal", "opposite", "sum", "small"]))
        other = draw(st.integers(0, rank - 1))
        if kind == "zero":
            b[column] = 0
        elif kind == "equal":
            a[:, column] = a[:, other]
        elif kind == "opposite":
            a[:, column], b[column] = -a[:, other], b[other]
        elif kind == "sum":
            a[:, column] = a.sum(axis=1)
        elif kind == "small":
            a[:, column] *= 1e-3
    # Tiny and huge, in A, in B or in the scale.
    power = draw(st.sampled_from([-12, -6, 0, 0, 0, 6, 12]))
    a, b = a * 10.0**power, b * 10.0 ** draw(st.sampled_from([0, 0, -power, 6]))
    return LowRank(
        a.astype(np.float32), b.astype(np.float32), draw(st.sampled_from([1.0, 20.0, 0.1, -2.0, 1e-8]))
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[LowRank, LowRank]:
    rows, columns = draw(st.sampled_from([(12, 9), (9, 12), (40, 33), (4, 5), (300, 20)]))
    first = draw(factors(rows, columns))
    kind = draw(st.sampled_from(["other", "other", "equal", "opposite", "nearly", "refactored", "scaled"]))
    if kind == "other":
        return first, draw(factors(rows, columns))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b, scale = first.a.copy(), first.b.copy(), first.scale
    if kind == "opposite":
        a = -a
    elif kind == "nearly":
        size = draw(st.sampled_from([1e-1, 1e-3, 1e-5, 1e-7]))
        a = (a * (1 + size * random.standard_normal(a.shape))).astype(np.float32)
        if draw(st.booleans()):
            b = (b * (1 + size * random.standard_normal(b.shape))).astype(np.float32)
    elif kind == "refactored":
        a, b = a * np.float32(4), b / np.float32(4)
    elif kind == "scaled":
        scale *= draw(st.sampled_from([1 + 1e-9, 0.5, 1.01]))
    return first, LowRank(a, b, scale)


@pytest.mark.skipif(not EXTENDED, reason="no extended precision to judge by")
@given(pairs())
@settings(max_examples=200)
def test_it_agrees_with_whole_matrices(pair: tuple[LowRank, LowRank]) -> None:
    a, b = pair
    found = compare(a, b)
    first, second = dense(a), dense(b)
    sizes = [norm_of_terms(update) for update in pair]
    for ours, matrix, size in ((found.norm_a, first, sizes[0]), (found.norm_b, second, sizes[1])):
        assert ours == pytest.approx(norm(matrix), rel=TOLERANCE, abs=1e-13 * size)
    # What is left of two equal updates in other factors is the rounding of float64.
    assert found.change == pytest.approx(norm(first - second), rel=TOLERANCE, abs=1e-13 * sum(sizes))
    product = float((first * second).sum())
    assert found.product == pytest.approx(product, rel=TOLERANCE, abs=1e-13 * sizes[0] * sizes[1])
    if min(norm(first) / (sizes[0] or 1), norm(second) / (sizes[1] or 1)) > 1e-6:
        assert found.cosine == pytest.approx(product / norm(first) / norm(second), abs=TOLERANCE)
        assert found.relative_change == pytest.approx(
            norm(first - second) / norm(first), rel=TOLERANCE, abs=1e-12
        )


@given(pairs())
@settings(max_examples=150)
def test_spectra_and_angles_agree_with_whole_matrices(pair: tuple[LowRank, LowRank]) -> None:
    found = compare(*pair)
    bases, clear = [], True
    for update, spectrum in zip(pair, (found.spectrum_a, found.spectrum_b), strict=True):
        columns, values, rows = np.linalg.svd(dense(update).astype(np.float64), full_matrices=False)
        size = norm_of_terms(update)
        assert len(spectrum) == min(update.a.shape[1], *update.shape)
        assert np.allclose(spectrum, values[: len(spectrum)], rtol=TOLERANCE, atol=1e-7 * size)
        if size and values[0] > 1e-6 * size:
            assert effective_rank(spectrum) == pytest.approx(effective_rank(values.tolist()), rel=TOLERANCE)
        share = values / values[0] if values[0] else values
        # What lies near the limit may count or not, and the space of what is that small is not known well.
        clear &= not ((share > 1e-9) & (share < 1e-4)).any() and bool(values[0] > 1e-6 * size)
        rank = int((share > 1e-6).sum())
        bases.append((columns[:, :rank], rows[:rank].T))
    if not clear:
        return
    for side, angles in enumerate((found.angles_in, found.angles_out)):
        expected = angles_between(bases[0][side], bases[1][side])
        assert len(angles) == len(expected)
        # An angle near 0 is known to the square root of its cosine's error.
        exact, found_angles = np.sort(expected), np.sort(angles)
        assert (np.abs(found_angles - exact) <= np.where(exact < 1e-3, 1e-4, 1e-5)).all()


def norm_of_terms(update: LowRank) -> float:
    lengths = np.linalg.norm(update.a.astype(np.float64), axis=0) * np.linalg.norm(
        update.b.astype(np.float64), axis=1
    )
    return float(abs(update.scale) * lengths.sum())


def random_update(seed: int, rows: int = 50, columns: int = 30, rank: int = 4, scale: float = 2.0) -> LowRank:
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((rows, rank)), random.standard_normal((rank, columns))
    return LowRank(a.astype(np.float32), b.astype(np.float32), scale)


def test_the_very_same_and_its_opposite() -> None:
    one = random_update(1)
    found = compare(one, LowRank(one.a.copy(), one.b.copy(), one.scale))
    assert (found.change, found.relative_change, found.cosine) == (0.0, 0.0, 1.0)
    assert (
        len(found.angles_in) == len(found.angles_out) == 4 and max(*found.angles_in, *found.angles_out) < 1e-6
    )
    found = compare(one, LowRank(one.a, one.b, -one.scale))
    assert (found.cosine, found.relative_change) == (pytest.approx(-1), pytest.approx(2))
    assert max(found.angles_in) < 1e-6


def test_zeros_and_missing_updates() -> None:
    one, zero = random_update(1), LowRank(random_update(2).a, np.zeros((4, 30), np.float32))
    found = compare(one, zero)
    assert (found.norm_b, found.cosine, found.angles_in) == (0.0, None, ())
    assert found.relative_change == pytest.approx(1)
    assert compare(zero, one).relative_change is None
    both = compare(zero, LowRank(zero.a + 1, zero.b))
    assert (both.relative_change, both.cosine, both.spectrum_a) == (0.0, None, (0.0,) * 4)
    assert effective_rank(both.spectrum_a) == 0.0
    assert overlap(both.angles_in) is None
    assert UpdateComparison(0.0, 0.0, 0.0, 0.0).relative_change == 0.0
    gone, new = compare(one, None), compare(None, one)
    assert (gone.norm_a, gone.relative_change, gone.cosine) == (new.norm_b, 1.0, None)
    assert (new.norm_a, new.relative_change) == (0.0, None)
    assert gone.spectrum_a == new.spectrum_b


def test_what_cannot_be_compared() -> None:
    for pair in ((None, None), (random_update(1), random_update(1, rows=51))):
        with pytest.raises(ValueError, match="updates of"):
            compare(*pair)
    for side, wrong in itertools.product("ab", (np.nan, np.inf, -np.inf)):
        one, other = random_update(1), random_update(2)
        getattr(one, side)[1, 1] = wrong
        for pair in ((one, other), (other, one), (one, None), (None, one), (one, one)):
            with pytest.raises(NotFiniteError):
                compare(*pair)


@pytest.mark.parametrize("power", [-44, -30, 0, 30, 38])
def test_the_ends_of_float32(power: int) -> None:
    random = np.random.default_rng(3)
    a = (random.uniform(0.1, 1, (20, 3)) * 10.0**power).astype(np.float32)
    b = (random.uniform(0.1, 1, (3, 20)) * 10.0**power).astype(np.float32)
    one, other = LowRank(a, b, 1e30), LowRank(a[::-1].copy(), b, 1e-30)
    found = compare(one, other)
    assert found.norm_a == pytest.approx(norm(dense(one)), rel=TOLERANCE)
    assert found.norm_b == pytest.approx(norm(dense(other)), rel=TOLERANCE)
    assert found.cosine is not None
    assert math.isfinite(found.cosine)


def test_effective_rank() -> None:
    assert effective_rank([3.0]) == pytest.approx(1)
    assert effective_rank([2.0] * 5) == pytest.approx(5)
    assert effective_rank([2.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_rank([]) == 0.0
    # Shares 0.8 and 0.2 of the energy.
    expected = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert effective_rank([2.0, 1.0]) == pytest.approx(expected)


def test_known_angles() -> None:
    turned = math.radians(30)
    a = LowRank(np.array([[1, 0], [0, 1], [0, 0]], np.float32), np.eye(2, dtype=np.float32))
    b = LowRank(
        np.array([[1, 0], [0, math.cos(turned)], [0, math.sin(turned)]], np.float32),
        np.eye(2, dtype=np.float32),
    )
    found = compare(a, b)
    assert found.angles_in == pytest.approx((0, turned), abs=1e-6)
    assert found.angles_out == pytest.approx((0, 0), abs=1e-6)
    assert overlap(found.angles_in) == pytest.approx((1 + math.cos(turned) ** 2) / 2)


def test_what_depends_on_each_other_is_decomposed() -> None:
    """Half of the columns twice, with more rows than the QR decomposition takes at once."""
    one = random_update(1, 900, 700, 6)
    double = LowRank(np.concatenate([one.a, one.a], axis=1), np.concatenate([one.b, one.b]) / 2, one.scale)
    found = compare(one, double)
    assert found.relative_change is not None
    assert found.relative_change < 1e-13
    assert np.allclose(found.spectrum_b[:6], found.spectrum_a, rtol=1e-9)
    assert max(found.spectrum_b[6:]) < 1e-10 * found.norm_b
    assert len(found.angles_in) == 6
    assert max(found.angles_in) < 1e-6


def test_norms_of_independent_updates_need_no_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = random_update(1), random_update(2)
    expected = compare(one, other)
    monkeypatch.setattr(np.linalg, "qr", None)
    found = compare(one, other, shapes=False)
    assert (found.norm_a, found.product, found.change) == (expected.norm_a, expected.product, expected.change)


def test_negligible_directions_have_no_angle() -> None:
    one, other = random_update(1), random_update(2)
    weak = np.array([1, 1, 1, 1e-8], np.float32)
    small, less = (
        [
            LowRank(update.a[:, : len(factor)] * factor, update.b[: len(factor)], update.scale)
            for update in (one, other)
        ]
        for factor in (weak, weak[:3])
    )
    for both in (small, [small[0], other]):
        found, expected = compare(*both), compare(less[0], both[1] if both[1] is other else less[1])
        assert len(found.angles_in) == 3
        for side in ("angles_in", "angles_out"):
            assert getattr(found, side) == pytest.approx(getattr(expected, side), abs=1e-6)
