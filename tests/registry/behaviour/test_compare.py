"""Divergence, agreement and loss from logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusery.registry.behaviour import compare as module
from fusery.registry.behaviour.compare import TokenScores, compare, log_softmax, losses

SHAPE = (4, 7)
LOGITS = arrays(np.float32, SHAPE, elements=st.floats(-60, 60, width=32))
TARGETS = arrays(np.int64, SHAPE[0], elements=st.integers(0, SHAPE[1] - 1))


@given(LOGITS, LOGITS, TARGETS)
def test_a_divergence_is_that_of_the_definition_and_never_negative(a: Any, b: Any, targets: Any) -> None:
    scores = compare(a, b, targets)
    p = np.exp(log_softmax(a))
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(scores.loss_a, -log_softmax(a)[np.arange(len(a)), targets], rtol=1e-9)
    expected = (p * (log_softmax(a) - log_softmax(b))).sum(axis=-1)
    assert (scores.kl >= 0).all()
    np.testing.assert_array_equal(scores.loss_b, losses(b, targets))
    np.testing.assert_allclose(scores.kl, expected, rtol=1e-9, atol=1e-12)


@given(LOGITS, TARGETS, st.floats(-50, 50, width=32))
def test_a_model_is_as_itself_also_with_all_logits_shifted(logits: Any, targets: Any, shift: float) -> None:
    same = compare(logits, logits, targets)
    assert not same.kl.any()
    assert same.same.all()
    shifted = compare(logits.astype(np.float32), (logits + np.float32(shift)).astype(np.float32), targets)
    assert shifted.kl.max() < 1e-4


def test_a_small_divergence_is_not_lost_to_cancellation() -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal((1, 50_000)).astype(np.float32)
    step = np.float32(1e-3)
    b = a.copy()
    b[0, ::2] += step
    p = np.exp(log_softmax(a))[0, ::2].sum()
    scores = compare(a, b, np.array([0]))
    np.testing.assert_allclose(scores.kl[0], 0.5 * p * (1 - p) * float(step) ** 2, rtol=0.01)


def test_an_impossible_token_leaves_numbers_finite() -> None:
    a = np.array([[0.0, -np.inf, 1.0]], np.float32)
    b = np.array([[-np.inf, 0.0, 1.0]], np.float32)
    scores = compare(a, b, np.array([1]))
    assert np.isfinite(scores.kl).all()
    assert scores.kl[0] > 100
    assert np.isfinite(scores.loss_a).all()
    assert compare(a, a, np.array([0])).kl[0] == 0


def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    a, b = (random.standard_normal((9, 5)).astype(np.float32) for _ in range(2))
    targets = random.integers(0, 5, 9)
    whole = compare(a, b, targets)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 5 * 2)
    parts = TokenScores.joined([compare(a[:4], b[:4], targets[:4]), compare(a[4:], b[4:], targets[4:])])
    for name in ("kl", "same", "loss_a", "loss_b"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
