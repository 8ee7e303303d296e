"""Scales and biases that are learned: the gradient is mlx's own, and what was put wrong finds back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

pytest.importorskip("mlx_lm")

import mlx.core as mx
from mlx import nn
from mlx.optimizers import Adam

from fusery.registry.errors import ModelUnusableError
from fusery.research import learned_scales
from fusery.research.learned_scales import (
    _FIRST,
    _SECOND,
    _SMALL,
    BATCH,
    LONGEST,
    _answers,
    _batches,
    _go_back,
    _Layer,
    _parted,
    learn_scales,
)
from fusery.research.models import LoadedModel, batches
from fusery.research.prompts import Sample

PATHS = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")


def samples(count: int, length: int, seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [Sample(str(n), tuple(random.integers(0, 250, length).tolist()), 1) for n in range(count)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=32, layers=2)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.001)
    fused = tmp_path / "fused"
    shutil.copytree(base, fused)
    random = np.random.default_rng(1)
    tensors: dict[str, Any] = dict(mx.load(str(fused / "model.safetensors")))
    mx.eval(tensors)  # mlx 0.32.0 reads them when they are written, over what they are read from
    for path in PATHS:
        for part in ("scales", "biases"):
            known = tensors[f"{path}.{part}"]
            off = mx.array(1 + 0.04 * random.standard_normal(known.shape).astype(np.float32))
            tensors[f"{path}.{part}"] = (known.astype(mx.float32) * off).astype(known.dtype)
    mx.save_safetensors(str(fused / "model.safetensors"), tensors, metadata={"format": "mlx"})
    return base, adapter, fused


def loaded(base: Path, adapter: Path, fused: Path) -> tuple[LoadedModel, LoadedModel]:
    adapted = LoadedModel.load(base, numpy=True)
    adapted.put_on(adapter)
    return LoadedModel.load(fused, numpy=True), adapted


def test_what_was_off_comes_nearer(folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_scales, "BATCH", 64)
    monkeypatch.setattr(learned_scales, "RATE", 1e-2)
    model, adapted = loaded(*folders)
    told: list[tuple[int, int]] = []
    texts = samples(24, 32)
    found = learn_scales(
        model, adapted, texts, steps=8, progress=lambda done, total: told.append((done, total))
    )
    assert 0 < found.after < 0.75 * found.before
    assert (told[0], told[-1], found.steps) == ((1, 8), (8, 8), 8)
    assert found.tokens == 8 * 64
    assert set(found.layers) == set(PATHS)
    # The model has what is returned, and answers so.
    module = dict(model.network.named_modules())[PATHS[0]]
    assert np.array_equal(np.asarray(module["scales"]), found.layers[PATHS[0]].scales)
    again = learn_scales(*loaded(*folders), texts, steps=8)
    for path in PATHS:
        assert np.array_equal(again.layers[path].scales, found.layers[path].scales)


def test_a_layer_has_the_gradient_of_mlx_and_takes_steps_of_adam() -> None:
    mx.random.seed(3)
    module = nn.QuantizedLinear(64, 8, bias=False, group_size=32, bits=4)
    layer, random = _Layer.of(module), np.random.default_rng(4)
    start = {part: module[part].astype(mx.float32) for part in ("scales", "biases")}
    inputs, by_output = (random.standard_normal((5, n)).astype(np.float32) for n in (64, 8))

    def loss(moved: Any) -> Any:
        scales = start["scales"] * (1 + moved[0])
        biases = start["biases"] + start["scales"] * moved[1]
        weight = mx.dequantize(module["weight"], scales, biases, group_size=32, bits=4)
        return (mx.array(inputs) @ weight.T * mx.array(by_output)).sum()

    optimizer = Adam(1e-3, betas=[_FIRST, _SECOND], eps=_SMALL, bias_correction=True)
    known = {"moved": mx.zeros((2, 8, 2))}
    for number in (1, 2, 3):
        gradient = mx.grad(loss)(known["moved"])
        layer.add(inputs, by_output)
        np.testing.assert_allclose(layer.gradient, np.asarray(gradient), rtol=1e-4, atol=1e-5)
        known = optimizer.apply_gradients({"moved": gradient / 5 * number}, known)
        layer.gradient *= number
        layer.step(number, 1e-3, tokens=5)
        np.testing.assert_allclose(layer.moved, np.asarray(known["moved"]), rtol=1e-3, atol=1e-7)
        assert not layer.gradient.any()
        expected = np.asarray(start["scales"]) * (1 + layer.moved[0])
        np.testing.assert_allclose(np.asarray(module["scales"]), expected, rtol=1e-6)


def test_gradient_of_padded_texts_equals_the_sum_of_single_texts(folders: tuple[Path, Path, Path]) -> None:
    model, adapted = loaded(*folders)
    path, texts = PATHS[1], [*samples(2, 20), *samples(1, 13, seed=1)]
    modules = dict(model.network.named_modules())
    layer, module = _Layer.of(modules[path]), modules[path]
    parts = [(tokens, rows) for _, tokens, rows in batches(texts)]
    assert len(parts) == 1 and parts[0][1].sum() == 53
    for part, rows in parts:
        _go_back(model, part, rows, np.exp(_answers(adapted, part, rows)), {path: layer})

    class Moved(nn.Module):
        def __call__(self, x: Any) -> Any:
            scales = start["scales"] * (1 + moved_by[0][0])
            biases = start["biases"] + start["scales"] * moved_by[0][1]
            form = {"group_size": module.group_size, "bits": module.bits}
            return x @ mx.dequantize(module["weight"], scales, biases, **form).T

    start = {part: module[part].astype(mx.float32) for part in ("scales", "biases")}
    moved_by: list[Any] = []
    plain = LoadedModel.load(folders[2], numpy=False)
    plain.network.model.layers[1].self_attn.q_proj = Moved()

    def loss(moved: Any) -> Any:
        moved_by[:] = [moved]
        total = mx.zeros(())
        for text in texts:
            tokens = np.array([text.tokens], np.int32)
            wanted = mx.array(_answers(adapted, tokens, np.ones(tokens.shape, bool)))
            logits = plain.network(mx.array(tokens))[0]
            logs = logits - mx.logsumexp(logits, axis=1, keepdims=True)
            total = total + (mx.exp(wanted) * (wanted - logs)).sum()
        return total

    expected = np.asarray(mx.grad(loss)(mx.zeros(layer.gradient.shape)))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(layer.gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_model_with_the_bases_own_scales_has_nothing_to_learn(folders: tuple[Path, Path, Path]) -> None:
    base, adapter, _ = folders
    with pytest.raises(ModelUnusableError):
        learn_scales(*loaded(base, adapter, base), samples(4, 20), steps=1)


def test_each_sample_comes_once_before_one_comes_again_and_none_that_was_put_aside() -> None:
    learned_from, aside = _parted(samples(50, 300))
    assert [sample.label for sample in aside] == ["0", "16", "32", "48"]
    assert not {sample.label for sample in learned_from} & {sample.label for sample in aside}
    steps = list(_batches(learned_from, 23))
    assert {sum(len(sample.tokens) for sample in batch) for batch in steps} == {BATCH}, (
        f"of each sample {LONGEST} tokens"
    )
    seen = [sample.label for batch in steps for sample in batch]
    assert len(set(seen[:46])) == 46 and set(seen) == {sample.label for sample in learned_from}
    many = _parted(samples(2000, 300))
    # As many as fit into the tokens that are put aside, from the first to the last alike.
    assert [int(sample.label) for sample in many[1]] == [250 * number for number in range(8)]
    assert len(many[0]) == 1992
