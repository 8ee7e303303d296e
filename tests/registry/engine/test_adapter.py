"""Reading adapters: what is refused, and what is taken from the configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, load_raw, rewrite

from fusery.registry.engine.adapter import TrainedAdapter, read_adapter, require_linear
from fusery.registry.errors import FusionUnsupportedError

from .conftest import Planner

_UP = "model.layers.2.mlp.up_proj"
_A, _B = f"{_UP}.lora_a", f"{_UP}.lora_b"


def read(folder: Path, change: dict[str, Any] | None = None, scale: float | None = None) -> TrainedAdapter:
    config = json.loads((folder / "adapter_config.json").read_text()) | (change or {})
    return read_adapter(folder / "adapters.safetensors", config, scale)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "dora without magnitudes": {"fine_tune_type": "dora"},
    "full without whole tensors": {"fine_tune_type": "full", "lora_parameters": None},
    "unknown": {"fine_tune_type": "x" * 99},
    "no num_layers": {"num_layers": None},
    "no parameters": {"lora_parameters": None},
    "no scale": {"lora_parameters": {"rank": 8, "alpha": 16}},
    "scale is text": {"lora_parameters": {"rank": 8, "scale": "20"}},
    "rank is another": {"lora_parameters": {"rank": 4, "scale": 20.0}},
    "keys are text": {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": "q_proj"}},
    "keys leave modules out": {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": ["self_attn.q_proj"]}},
    "keys name a norm": {
        "lora_parameters": {"rank": 8, "scale": 20.0, "keys": [*tiny_models.LINEAR, "model.norm"]}
    },
}


@pytest.mark.parametrize("change", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_refused_configurations(change: dict[str, Any], base: Path, adapter: Path, planned: Planner) -> None:
    with pytest.raises(FusionUnsupportedError) as caught:
        planned(base, adapter, adapter_config=change)
    assert len(caught.value.message) < 250


def test_the_scale_can_be_overridden(base: Path, adapter: Path, planned: Planner) -> None:
    assert read(adapter).scale == 20.0
    assert read(adapter, scale=1.5).scale == 1.5
    # Where the configuration has none, too: it is how an adapter with alpha alone becomes usable.
    assert read(adapter, {"lora_parameters": {"rank": 8, "alpha": 16}}, scale=2.0).scale == 2.0
    assert {part.scale for module in planned(base, adapter).modules for part in module.parts} == {20.0}
    overridden = planned(base, adapter, scale=1.5).modules
    assert {part.scale for module in overridden for part in module.parts} == {1.5}
    for scale in (float("nan"), float("inf")):
        with pytest.raises(FusionUnsupportedError):
            read(adapter, scale=scale)


def test_a_lora_adapter(adapter: Path) -> None:
    found = read(adapter)
    assert (found.kind, found.num_layers, found.keys, found.tensors) == ("lora", 1, None, {})
    assert set(found.factors) == {f"model.layers.2.{key}" for key in tiny_models.LINEAR}
    pair = found.factors[_UP]
    assert (pair.rank, pair.switch, pair.m) == (8, False, None)
    assert (pair.a.shape, pair.b.shape) == ((128, 8), (8, 256))
    rewrite(adapter, experts)
    pair = read(adapter).factors[_UP]
    assert (pair.switch, pair.rank) == (True, 8)


def test_a_dora_adapter(tmp_path: Path, base: Path) -> None:
    found = read(tiny_models.make_adapter(tmp_path / "dora", base, fine_tune_type="dora"))
    assert found.kind == "dora"
    magnitudes = found.factors["model.layers.2.mlp.up_proj"].m
    assert magnitudes is not None
    assert magnitudes.shape == (256,)


def test_a_full_fine_tune(tmp_path: Path, base: Path, adapter: Path) -> None:
    tiny_models.write_tensors(adapter / "adapters.safetensors", load_raw(base), None)
    found = read(adapter, {"fine_tune_type": "full", "lora_parameters": None, "num_layers": None})
    assert (found.kind, found.factors) == ("full", {})
    assert found.tensors.keys() == tiny_models.read_tensors(base).keys()
    with pytest.raises(FusionUnsupportedError):
        read(adapter, {"fine_tune_type": "full"}, scale=2.0)


def test_only_lora_can_be_weighted(adapter: Path) -> None:
    lora = read(adapter)
    require_linear([(lora, 0.5), (lora, 1.0)], whole=False, scaled=True)
    require_linear([(lora, 1.0)], whole=True, scaled=False)
    for weight, scaled in ((0.5, False), (1.0, True)):
        with pytest.raises(FusionUnsupportedError):
            require_linear([(lora, weight)], whole=True, scaled=scaled)
    for kind, name in (("dora", "DoRA"), ("full", "full fine-tuning")):
        other = replace(lora, kind=kind)
        require_linear([(other, 1.0)], whole=False, scaled=True)
        for adapters in ([(other, 0.5)], [(other, 1.0)] * 2):
            with pytest.raises(FusionUnsupportedError, match=name):
                require_linear(adapters, whole=False, scaled=False)


def experts(tensors: dict[str, tiny_models.Raw]) -> None:
    a, b = np.zeros((4, 8, 128), np.float32), np.zeros((4, 256, 8), np.float32)
    tensors |= {_A: ("F32", a), _B: ("F32", b)}


def reshaped(*shape: int) -> Change:
    return lambda t: t.update({_A: ("F32", t[_A][1].reshape(shape))})


def fewer_experts(tensors: dict[str, tiny_models.Raw]) -> None:
    experts(tensors)
    tensors[_B] = ("F32", tensors[_B][1][:3])


LORA_TENSORS: dict[str, Change] = {
    "magnitude": lambda t: t.update({f"{_UP}.m": t[_A]}),
    "a stranger": lambda t: t.update({"model.norm.weight": t[_A]}),
    "half a pair": lambda t: t.pop(_B),
    "half a switch layer": reshaped(2, 64, 8),
    "fewer experts in one factor": fewer_experts,
    "ranks differ": reshaped(64, 16),
    "one dimension": reshaped(-1),
    "no numbers": lambda t: t.update({_A: ("F32", np.zeros((0, 8), np.float32))}),
    "rank zero": lambda t: t.update(
        {_A: ("F32", np.zeros((128, 0), np.float32)), _B: ("F32", np.zeros((0, 256), np.float32))}
    ),
}


DORA_TENSORS: dict[str, Change] = {
    "no magnitudes": lambda t: t.pop(f"{_UP}.m"),
    "too few magnitudes": lambda t: t.update({f"{_UP}.m": ("F32", np.ones(255, np.float32))}),
    "experts": experts,
}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_refused_tensors(kind: Literal["lora", "dora"], tmp_path: Path, base: Path, planned: Planner) -> None:
    for name, change in (LORA_TENSORS if kind == "lora" else DORA_TENSORS).items():
        folder = tiny_models.make_adapter(tmp_path / name, base, num_layers=1, fine_tune_type=kind)
        assert planned(base, folder)
        rewrite(folder, change)
        with pytest.raises(FusionUnsupportedError):
            read(folder) if kind == "lora" else planned(base, folder)
