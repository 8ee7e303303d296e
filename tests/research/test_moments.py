"""The directions of a model's inputs, against the matrices that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from layer_inputs import second_moments

pytest.importorskip("mlx_lm")

from fusery.registry.errors import ModelUnusableError
from fusery.research.models import LoadedModel
from fusery.research.moments import Moments, moments
from fusery.research.prompts import Sample

WIDTH = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("watched") / "tiny"
    return LoadedModel.load(tiny_models.make_base(folder, layers=2, hidden=WIDTH), numpy=True)


def samples(count: int = 6, length: int = 150) -> list[Sample]:
    random = np.random.default_rng(5)
    return [
        Sample("x", tuple(random.integers(0, 250, length + number).tolist()), 1) for number in range(count)
    ]


def test_layers_that_share_an_input_are_found(model: LoadedModel) -> None:
    found = moments(model, samples(2), 4)
    layers = range(2)
    expected = {}
    for layer in layers:
        path = f"model.layers.{layer}."
        expected |= {path + name: path + "self_attn.q_proj" for name in tiny_models.LINEAR[:3]}
        expected |= {path + name: path + name for name in ("self_attn.o_proj", "mlp.down_proj")}
        expected |= {path + name: path + "mlp.gate_proj" for name in ("mlp.gate_proj", "mlp.up_proj")}
    assert found.modules == expected | {"lm_head": "lm_head"}
    assert set(found.inputs) == set(found.modules.values())


def test_they_are_the_largest_eigenvectors(model: LoadedModel) -> None:
    asked, rank = samples(), 12
    found, whole = moments(model, asked, rank), second_moments(model, asked)
    for key, moment in found.inputs.items():
        matrix = whole[key].astype(np.float64)
        largest = float(np.linalg.eigvalsh(matrix)[-1])
        assert moment.directions.shape == (len(matrix), rank)
        assert np.allclose(moment.diagonal, np.diag(matrix), rtol=1e-4)
        values = np.linalg.eigvalsh(matrix)[::-1][:rank]
        got = np.square(moment.directions).sum(axis=0)
        assert (np.diff(got) <= 0).all()
        # Random weights are the hard case: no direction stands out, and there the sum is a few per cent short.
        assert 0.88 * values.sum() < got.sum() < 1.0001 * values.sum()
        # Never more than there is, in any direction.
        assert np.linalg.eigvalsh(matrix - moment.directions @ moment.directions.T)[0] > -1e-5 * largest


def test_fewer_tokens_than_directions(model: LoadedModel) -> None:
    found = moments(model, [Sample("x", (1, 2, 3, 4, 5), 1)], 32)
    for moment in found.inputs.values():
        assert moment.directions.shape[1] == 32
        assert np.isfinite(moment.directions).all()
        assert np.allclose(np.square(moment.directions).sum(axis=1), moment.diagonal, rtol=1e-3, atol=1e-6)
        assert not moment.directions[:, 5:].any()


def test_it_gives_the_same_twice_and_tells_how_far_it_is(model: LoadedModel) -> None:
    asked: list[Sample] = samples()
    told: list[tuple[int, int]] = []

    def run() -> Moments:
        return moments(model, asked, 4, progress=lambda *at: told.append(at))

    one, other = run(), run()
    for key, moment in one.inputs.items():
        assert np.array_equal(moment.directions, other.inputs[key].directions)
    tokens = sum(len(sample.tokens) for sample in asked)
    half = told[: len(told) // 2]
    assert half == sorted(half)
    assert half[-1] == (2 * tokens, 2 * tokens)
    assert len(half) > 2


def test_a_model_that_gives_no_numbers(tmp_path: Path) -> None:
    broken = LoadedModel.load(tiny_models.make_base(tmp_path / "tiny", layers=1), numpy=True)
    layer = broken.network.model.layers[0].mlp.up_proj
    layer.weight = layer.weight * float("inf")
    with pytest.raises(ModelUnusableError):
        moments(broken, samples(1), 4)
