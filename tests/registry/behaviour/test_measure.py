"""Two models on the same samples, and what goes into their layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models

from fusery.registry.behaviour.activation_capture import Inputs, inputs_of, second_moments
from fusery.registry.behaviour.compare import TokenScores, compare
from fusery.registry.behaviour.measure import Source, measure
from fusery.registry.behaviour.models import Model
from fusery.registry.behaviour.prompts import Sample
from fusery.registry.errors import ModelUnusableError

RANDOM = np.random.default_rng(2)
SAMPLES = [
    Sample(str(length), tuple(int(token) for token in RANDOM.integers(0, 300, length)), 1 + length // 3)
    for length in (25, 8, 40, 9)
]


def watched(model: Model, samples: list[Sample], modules: list[str] | None = None) -> dict[str, list[Inputs]]:
    seen: dict[str, list[Inputs]] = {}
    inputs_of(model, samples, lambda path, inputs: seen.setdefault(path, []).append(inputs), modules=modules)
    return seen


@pytest.fixture(scope="session")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(tmp_path_factory.mktemp("adapters") / "one", tiny_base, update=0.3)


def test_a_model_against_itself(tiny_base: Path, adapter: Path) -> None:
    source = Source(tiny_base, adapter)
    whole = TokenScores.joined(measure(source, source, SAMPLES).scores)
    assert whole.kl.max() == 0
    assert whole.same.all()
    assert len(whole.kl) == sum(len(sample.targets) for sample in SAMPLES)


def test_scores_are_those_of_each_sample_alone(tiny_base: Path, adapter: Path) -> None:
    measured = measure(Source(tiny_base, adapter), Source(tiny_base), SAMPLES, with_base=True)
    base, adapted = Model.load(tiny_base), Model.load(tiny_base)
    adapted.put_on(adapter)
    for sample, scores, losses in zip(SAMPLES, measured.scores, measured.base_losses, strict=True):
        tokens = np.array([sample.tokens], np.int32)
        a, b = (model.run(tokens)[sample.first - 1 : -1] for model in (adapted, base))
        expected = compare(a, b, sample.targets)
        np.testing.assert_allclose(scores.kl, expected.kl, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(scores.loss_a, expected.loss_a, rtol=1e-4)
        np.testing.assert_allclose(losses, expected.loss_b, rtol=1e-4)
        assert scores.kl.mean() > 1e-4
    reverse = measure(Source(tiny_base), Source(tiny_base, adapter), SAMPLES).scores[0]
    np.testing.assert_array_equal(measured.scores[0].loss_a, reverse.loss_b)
    assert not np.array_equal(measured.scores[0].kl, reverse.kl)


def test_the_inputs_of_a_layer_are_what_it_multiplies(tiny_base: Path, adapter: Path) -> None:
    path = "model.layers.3.self_attn.q_proj"
    for wrapped in (False, True):
        model = Model.load(tiny_base, numpy=True)
        if wrapped:
            model.put_on(adapter)
        seen = watched(model, SAMPLES)
        assert len(seen) == 4 * 7 + 1
        assert not any(name.endswith(".linear") for name in seen)
        total = sum(len(sample.tokens) for sample in SAMPLES)
        for name in seen.keys() - {"lm_head"}:
            assert sum(map(len, seen[name])) == total, name
        alone = [inputs for sample in SAMPLES for inputs in watched(model, [sample], [path])[path]]
        lengths = sorted(map(len, alone))
        assert lengths == sorted(len(sample.tokens) for sample in SAMPLES)
        together = np.sort(np.concatenate(seen[path]), axis=0)
        np.testing.assert_allclose(together, np.sort(np.concatenate(alone), axis=0), atol=1e-4)
        assert all("_told" not in module.__dict__ for module in model.network.modules())


def test_second_moments(tiny_base: Path) -> None:
    paths = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.k_proj"]
    model = Model.load(tiny_base, numpy=True)
    rows = watched(model, SAMPLES, paths)
    moments, squares = (
        second_moments(model, SAMPLES, modules=paths, diagonal=diagonal) for diagonal in (False, True)
    )
    assert moments.keys() == set(paths)
    for path in paths:
        x = np.concatenate(rows[path])
        assert moments[path].tokens == len(x)
        np.testing.assert_allclose(moments[path].total, x.T @ x, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(squares[path].mean, (x * x).mean(axis=0), rtol=1e-3)
        np.testing.assert_allclose(np.diag(moments[path].mean), squares[path].mean, rtol=1e-3)


def test_what_cannot_be_measured_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", vocab=300, layers=1)
    with pytest.raises(ModelUnusableError):
        measure(Source(tiny_base), Source(other), SAMPLES)
    with pytest.raises(ValueError, match="numpy=True"):
        inputs_of(Model.load(tiny_base, numpy=False), SAMPLES, lambda *_: None)
