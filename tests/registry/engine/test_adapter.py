"""Reading adapters: what is refused, and what is taken from the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, load_raw, rewrite

from fusery.registry.engine.adapter import Adapter, read_adapter
from fusery.registry.engine.plan import Plan
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import FuseryError

Planner = Callable[..., Plan]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "base", bits=4, layers=3)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)


def read(folder: Path, change: dict[str, Any] | None = None, scale: float | None = None) -> Adapter:
    config = json.loads((folder / "adapter_config.json").read_text()) | (change or {})
    return read_adapter(folder / "adapters.safetensors", config, scale)


ADAPTER_CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "dora without magnitudes": ({"fine_tune_type": "dora"}, "holds no m of model.layers.2.self_attn.q_proj"),
    "old dora": ({"use_dora": True}, "says use_dora, which mlx-lm before 0.19 wrote"),
    "full without whole tensors": (
        {"fine_tune_type": "full", "lora_parameters": None},
        "holds the tensor .*lora_[ab], which the base does not have",
    ),
    "unknown": ({"fine_tune_type": "x" * 99}, "no kind of adapter 'xxx"),
    "no num_layers": ({"num_layers": None}, "num_layers"),
    "num_layers is true": ({"num_layers": True}, "num_layers"),
    "no parameters": ({"lora_parameters": None}, "has no scale"),
    "no scale": ({"lora_parameters": {"rank": 8, "alpha": 16}}, "no scale, alpha is something else"),
    "scale is text": ({"lora_parameters": {"rank": 8, "scale": "20"}}, "scale '20'"),
    "scale is true": ({"lora_parameters": {"rank": 8, "scale": True}}, "scale 'True'"),
    "scale is infinite": ({"lora_parameters": {"rank": 8, "scale": float("inf")}}, "scale 'inf'"),
    "rank is another": ({"lora_parameters": {"rank": 4, "scale": 20.0}}, "rank 8, its configuration says 4"),
    "keys are text": ({"lora_parameters": {"rank": 8, "scale": 20.0, "keys": "q_proj"}}, "not a list"),
    "keys leave modules out": (
        {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": ["self_attn.q_proj"]}},
        "its own configuration does not adapt",
    ),
    "keys name a norm": (
        {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": [*tiny_models.LINEAR, "model.norm"]}},
        "not a linear layer",
    ),
}


@pytest.mark.parametrize(("change", "reason"), ADAPTER_CONFIG.values(), ids=ADAPTER_CONFIG.keys())
def test_configurations_that_are_refused(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        planned(base, adapter, adapter_config=change)
    assert len(caught.value.message) < 250


def test_an_old_dora_is_told_what_to_change(adapter: Path) -> None:
    with pytest.raises(FusionUnsupportedError) as caught:
        read(adapter, {"use_dora": True})
    assert '"fine_tune_type": "dora"' in str(caught.value.hint)


def test_the_scale_can_be_overridden(base: Path, adapter: Path, planned: Planner) -> None:
    assert read(adapter).scale == 20.0
    assert read(adapter, scale=1.5).scale == 1.5
    # Where the configuration has none, too: it is how an adapter with alpha alone becomes usable.
    assert read(adapter, {"lora_parameters": {"rank": 8, "alpha": 16}}, scale=2.0).scale == 2.0
    assert {part.scale for module in planned(base, adapter).modules for part in module.parts} == {20.0}
    overridden = planned(base, adapter, scale=1.5).modules
    assert {part.scale for module in overridden for part in module.parts} == {1.5}
    for scale in (float("nan"), float("inf")):
        with pytest.raises(FusionUnsupportedError, match="scale"):
            read(adapter, scale=scale)


def test_a_lora_adapter(adapter: Path) -> None:
    found = read(adapter)
    assert (found.kind, found.num_layers, found.keys, found.tensors) == ("lora", 1, None, {})
    assert set(found.factors) == {f"model.layers.2.{key}" for key in tiny_models.LINEAR}
    pair = found.factors[_UP]
    assert (pair.rank, pair.switch, pair.m) == (8, False, None)
    assert (pair.a.shape, pair.b.shape) == ((128, 8), (8, 256))


def test_a_dora_adapter(tmp_path: Path, base: Path) -> None:
    found = read(tiny_models.make_adapter(tmp_path / "dora", base, fine_tune_type="dora"))
    assert found.kind == "dora"
    magnitudes = found.factors["model.layers.2.mlp.up_proj"].m
    assert magnitudes is not None
    assert magnitudes.shape == (256,)


def test_an_adapter_of_experts(adapter: Path) -> None:
    a, b = np.zeros((4, 8, 128), np.float32), np.zeros((4, 256, 8), np.float32)
    rewrite(adapter, lambda t: t.update({_A: ("F32", a), _B: ("F32", b)}))
    pair = read(adapter).factors[_UP]
    assert (pair.switch, pair.rank) == (True, 8)
    rewrite(adapter, lambda t: t.update({_B: ("F32", b[:3])}))
    with pytest.raises(FusionUnsupportedError, match="do not multiply"):
        read(adapter)


def test_dora_does_not_adapt_experts(tmp_path: Path, base: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "dora", base, num_layers=1, fine_tune_type="dora")
    a, b = np.zeros((4, 8, 128), np.float32), np.zeros((4, 256, 8), np.float32)
    rewrite(folder, lambda t: t.update({_A: ("F32", a), _B: ("F32", b)}))
    with pytest.raises(FusionUnsupportedError, match=r"switch layer \(experts\), which DoRA does not adapt"):
        read(folder)


def test_a_full_fine_tune(tmp_path: Path, base: Path, adapter: Path) -> None:
    tiny_models.write_tensors(adapter / "adapters.safetensors", load_raw(base), None)
    found = read(adapter, {"fine_tune_type": "full", "lora_parameters": None, "num_layers": None})
    assert (found.kind, found.factors) == ("full", {})
    assert found.tensors.keys() == tiny_models.read_tensors(base).keys()
    with pytest.raises(FusionUnsupportedError, match="no scale to override"):
        read(adapter, {"fine_tune_type": "full"}, scale=2.0)


_A, _B = "model.layers.2.mlp.up_proj.lora_a", "model.layers.2.mlp.up_proj.lora_b"
_UP = "model.layers.2.mlp.up_proj"
ADAPTER_TENSORS: dict[str, tuple[Change, str]] = {
    "magnitude": (lambda t: t.update({f"{_UP}.m": t[_A]}), f"'{_UP}.m' is not a LoRA tensor"),
    "a stranger": (lambda t: t.update({"model.norm.weight": t[_A]}), "not a LoRA tensor"),
    "half a pair": (lambda t: t.pop(_B), f"holds no lora_b of {_UP}"),
    "the other half": (lambda t: t.pop(_A), f"holds no lora_a of {_UP}"),
    "whole numbers": (lambda t: t.update({_A: ("U32", t[_A][1].view(np.uint32))}), "not a float format"),
    "half a switch layer": (
        lambda t: t.update({_A: ("F32", t[_A][1].reshape(2, 64, 8))}),
        "do not multiply",
    ),
    "ranks differ": (lambda t: t.update({_A: ("F32", t[_A][1].reshape(64, 16))}), "do not multiply"),
    "one dimension": (lambda t: t.update({_A: ("F32", t[_A][1].reshape(-1))}), "do not multiply"),
    "four dimensions": (
        lambda t: t.update({_A: ("F32", t[_A][1].reshape(2, 2, 32, 8))}),
        "do not multiply",
    ),
    "no numbers": (lambda t: t.update({_A: ("F32", np.zeros((0, 8), np.float32))}), "do not multiply"),
    "rank zero": (
        lambda t: t.update(
            {_A: ("F32", np.zeros((128, 0), np.float32)), _B: ("F32", np.zeros((0, 256), np.float32))}
        ),
        "do not multiply",
    ),
}


@pytest.mark.parametrize(("change", "reason"), ADAPTER_TENSORS.values(), ids=ADAPTER_TENSORS.keys())
def test_tensors_that_are_refused(change: Change, reason: str, adapter: Path) -> None:
    rewrite(adapter, change)
    with pytest.raises(FusionUnsupportedError, match=reason):
        read(adapter)


DORA_TENSORS: dict[str, tuple[Change, str]] = {
    "a stranger": (lambda t: t.update({"model.norm.weight": t[_A]}), "not a DoRA tensor"),
    "no magnitudes": (lambda t: t.pop(f"{_UP}.m"), f"holds no m of {_UP}"),
    "magnitudes of whole numbers": (
        lambda t: t.update({f"{_UP}.m": ("U32", np.zeros(256, np.uint32))}),
        "not a float format",
    ),
    "too few magnitudes": (
        lambda t: t.update({f"{_UP}.m": ("F32", np.ones(255, np.float32))}),
        "do not fit its weight",
    ),
    "magnitudes as a matrix": (
        lambda t: t.update({f"{_UP}.m": ("F32", np.ones((256, 1), np.float32))}),
        "do not fit its weight",
    ),
}


@pytest.mark.parametrize(("change", "reason"), DORA_TENSORS.values(), ids=DORA_TENSORS.keys())
def test_dora_tensors_that_are_refused(
    change: Change, reason: str, tmp_path: Path, base: Path, planned: Planner
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "dora", base, num_layers=1, fine_tune_type="dora")
    rewrite(folder, change)
    with pytest.raises(FusionUnsupportedError, match=reason):
        planned(base, folder)


def test_all_refusals_are_errors_of_fusery() -> None:
    assert issubclass(FusionUnsupportedError, FuseryError)
