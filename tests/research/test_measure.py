"""Two models on the same samples: divergence, agreement and loss; and the inputs of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusery.registry.errors import ModelUnusableError
from fusery.research import measure as module
from fusery.research.measure import ModelSource, TokenScores, compare, log_softmax, losses, measure
from fusery.research.models import LoadedModel
from fusery.research.moments import Inputs, inputs_of
from fusery.research.prompts import Sample

RANDOM = np.random.default_rng(2)
SAMPLES = [
    Sample(str(length), tuple(int(token) for token in RANDOM.integers(0, 300, length)), 1 + length // 3)
    for length in (25, 8, 40, 9)
]


def watched(model: LoadedModel, samples: list[Sample]) -> dict[str, list[Inputs]]:
    seen: dict[str, list[Inputs]] = {}
    inputs_of(model, samples, lambda path, inputs: seen.setdefault(path, []).append(inputs))
    return seen


@pytest.fixture(scope="session")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(tmp_path_factory.mktemp("adapters") / "one", tiny_base, update=0.3)


def test_a_model_against_itself(tiny_base: Path, adapter: Path) -> None:
    source = ModelSource(tiny_base, adapter)
    whole = TokenScores.joined(measure(source, source, SAMPLES).scores)
    assert whole.kl.max() == 0
    assert whole.same.all()
    assert len(whole.kl) == sum(len(sample.targets) for sample in SAMPLES)


def test_scores_are_those_of_each_sample_alone(tiny_base: Path, adapter: Path) -> None:
    measured = measure(ModelSource(tiny_base, adapter), ModelSource(tiny_base), SAMPLES, with_base=True)
    base, adapted = LoadedModel.load(tiny_base), LoadedModel.load(tiny_base)
    adapted.put_on(adapter)
    for sample, scores, of_base in zip(SAMPLES, measured.scores, measured.base_losses, strict=True):
        tokens = np.array([sample.tokens], np.int32)
        a, b = (model.run(tokens)[sample.first - 1 : -1] for model in (adapted, base))
        expected = compare(a, b, sample.targets)
        np.testing.assert_allclose(scores.kl, expected.kl, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(scores.loss_a, expected.loss_a, rtol=1e-4)
        np.testing.assert_allclose(of_base, expected.loss_b, rtol=1e-4)
        assert scores.kl.mean() > 1e-4
    reverse = measure(ModelSource(tiny_base), ModelSource(tiny_base, adapter), SAMPLES).scores[0]
    np.testing.assert_array_equal(measured.scores[0].loss_a, reverse.loss_b)
    assert not np.array_equal(measured.scores[0].kl, reverse.kl)


def test_the_inputs_of_a_layer_are_what_it_multiplies(tiny_base: Path, adapter: Path) -> None:
    path = "model.layers.3.self_attn.q_proj"
    for wrapped in (False, True):
        model = LoadedModel.load(tiny_base, numpy=True)
        if wrapped:
            model.put_on(adapter)
        seen = watched(model, SAMPLES)
        assert len(seen) == 4 * 7 + 1
        assert not any(name.endswith(".linear") for name in seen)
        total = sum(len(sample.tokens) for sample in SAMPLES)
        for name in seen.keys() - {"lm_head"}:
            assert sum(map(len, seen[name])) == total, name
        alone = [inputs for sample in SAMPLES for inputs in watched(model, [sample])[path]]
        lengths = sorted(map(len, alone))
        assert lengths == sorted(len(sample.tokens) for sample in SAMPLES)
        together = np.sort(np.concatenate(seen[path]), axis=0)
        np.testing.assert_allclose(together, np.sort(np.concatenate(alone), axis=0), atol=1e-4)
        assert all("_told" not in module.__dict__ for module in model.network.modules())


def test_what_cannot_be_measured_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", vocab=300, layers=1)
    with pytest.raises(ModelUnusableError):
        measure(ModelSource(tiny_base), ModelSource(other), SAMPLES)
    with pytest.raises(ValueError, match="numpy=True"):
        inputs_of(LoadedModel.load(tiny_base, numpy=False), SAMPLES, lambda *_: None)


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
