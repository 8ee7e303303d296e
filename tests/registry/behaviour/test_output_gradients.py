"""What a loss says of each layer's outputs, against mlx's own way back through the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

pytest.importorskip("mlx_lm")

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import load_model

from fusery.registry.behaviour.models import Model, uncompiled
from fusery.registry.behaviour.output_gradients import LONGEST, Matrix, _drawn, gradients_of
from fusery.registry.behaviour.prompts import Sample

SEED = 7


def by_mlx(folder: Path, tokens: tuple[int, ...]) -> dict[str, Matrix]:
    """Return the gradient by zeros that are added to each layer's outputs."""
    network = load_model(folder, lazy=False)[0]
    network.set_dtype(mx.float32)
    probes: dict[str, Any] = {}
    asked: dict[str, tuple[int, int]] = {}

    class Probed(nn.Module):  # type: ignore[misc]
        def __init__(self, path: str, inner: Any) -> None:
            super().__init__()
            self._path, self.inner = path, inner

        def __call__(self, x: Any) -> Any:
            out = self.inner(x)
            asked[self._path] = out.shape[1:]
            return out + probes[self._path] if self._path in probes else out

    layers = [(path, each) for path, each in network.named_modules() if isinstance(each, nn.Linear)]
    layers += [(path, each) for path, each in network.named_modules() if isinstance(each, nn.QuantizedLinear)]
    for path, each in layers:
        parent: Any = network
        *way, last = path.split(".")
        for word in way:
            parent = parent[int(word)] if word.isdecimal() else parent[word]
        parent[last] = Probed(path, each)

    def loss(given: dict[str, Any]) -> Any:
        probes.update(given)
        logits = network(mx.array([tokens]))[0]
        labels = mx.array(_drawn(np.asarray(mx.stop_gradient(logits)), np.random.default_rng((SEED, 0))))
        return nn.losses.cross_entropy(logits, labels, reduction="sum")

    with uncompiled(mx):
        network(mx.array([tokens]))
        found = mx.grad(loss)({path: mx.zeros(shape) for path, shape in asked.items()})
    return {path: np.asarray(value) for path, value in found.items()}


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "4 bits"])
def test_they_are_those_of_mlx(tmp_path: Path, quantised: bool) -> None:
    folder = tiny_models.make_base(tmp_path / "tiny", layers=2, hidden=64, bits=4 if quantised else None)
    tokens = tuple(np.random.default_rng(3).integers(0, 250, 40).tolist())
    expected, found = by_mlx(folder, tokens), {}

    def told(path: str, inputs: Matrix, gradient: Matrix) -> None:
        assert inputs.shape[0] == gradient.shape[0] == len(tokens)
        found[path] = gradient.copy()

    model = Model.load(folder, numpy=True)
    gradients_of(model, [Sample("x", tokens, 1)], told, seed=SEED)
    assert set(found) == set(expected) and len(found) >= 14
    for path, gradient in found.items():
        scale = float(np.abs(expected[path]).max())
        assert scale > 0
        np.testing.assert_allclose(gradient, expected[path], atol=2e-3 * scale, err_msg=path)
    # The model answers as before: nothing of the way back is left on it.
    before = model.run(np.array([tokens], np.int32))
    assert np.array_equal(before, Model.load(folder, numpy=True).run(np.array([tokens], np.int32)))


def test_a_long_sample_is_cut(tmp_path: Path) -> None:
    model = Model.load(tiny_models.make_base(tmp_path / "tiny", layers=1, hidden=64), numpy=True)
    lengths: set[int] = set()
    sample = Sample("x", tuple([5] * (LONGEST + 30)), 1)
    gradients_of(model, [sample], lambda path, inputs, gradient: lengths.add(len(gradient)), seed=1)
    assert lengths == {LONGEST}


def test_labels_are_drawn_as_likely_as_the_model_says() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]], np.float32)).repeat(20_000, axis=0)
    drawn = _drawn(logits, np.random.default_rng(1))
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), [0.7, 0.2, 0.1], atol=0.015)
