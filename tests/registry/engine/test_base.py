"""Bases: which are taken by the names of their tensors, which through mlx-lm's class, which not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, rewrite

from fusery.registry.engine.naming import NeedsModelClassError
from fusery.registry.engine.plan import Plan
from fusery.registry.errors import FusionUnsupportedError, MissingExtraError
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import build_header

Planner = Callable[..., Plan]
_W = "model.layers.2.mlp.up_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "base", bits=4, layers=3)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)


CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({"model_file": "m.py"}, "model_file"),
    "no model type": ({"model_type": None}, "model_type"),
    "quantised activations": ({"quantize_activations": True}, "activations"),
    "quantisation malformed": ({"quantization": {"bits": 4}}, "malformed"),
    "quantisation is a list": ({"quantization": [4, 64]}, "malformed"),
    "bits as text": ({"quantization": {"bits": "4", "group_size": 64}}, "malformed"),
}

BY_CLASS: dict[str, tuple[dict[str, Any], str]] = {
    "loading changes weights": ({"model_type": "baichuan_m1"}, "architecture 'baichuan_m1'"),
    "layers of another kind": ({"model_type": "afm7"}, "architecture 'afm7'"),
    "awq": ({"quantization": None, "quantization_config": {"quant_method": "awq"}}, "quantised by awq"),
    "awq in the text part": (
        {
            "quantization": None,
            "quantization_config": None,
            "text_config": {"quantization_config": {"quant_method": "x"}},
        },
        "quantised by x",
    ),
    "another tool": ({"quantization": None, "quantization_config": {"bits": 4}}, "quantised by another tool"),
}


@pytest.mark.parametrize(("change", "reason"), CONFIG.values(), ids=CONFIG.keys())
def test_configurations_that_are_refused(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, tmp_path: Path, planned: Planner
) -> None:
    for scratch in (None, tmp_path):
        with pytest.raises(FusionUnsupportedError, match=reason) as caught:
            planned(base, adapter, config=change, scratch=scratch)
        assert not isinstance(caught.value, NeedsModelClassError)
        assert len(caught.value.message) < 250


@pytest.mark.parametrize(("change", "reason"), BY_CLASS.values(), ids=BY_CLASS.keys())
def test_configurations_that_need_the_class(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(NeedsModelClassError, match=reason) as caught:
        planned(base, adapter, config=change, scratch=None)
    assert len(caught.value.message) < 250


def test_the_class_has_the_last_word(base: Path, adapter: Path, tmp_path: Path, planned: Planner) -> None:
    pytest.importorskip("mlx_lm")
    with pytest.raises(FusionUnsupportedError, match="mlx-lm cannot load this base") as caught:
        planned(base, adapter, config={"model_type": "baichuan_m1"}, scratch=tmp_path)
    assert not isinstance(caught.value, NeedsModelClassError)


def test_without_mlx_the_missing_extra_is_told_with_the_reason(
    base: Path, adapter: Path, tmp_path: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlx", "mlx.core", "mlx_lm", "mlx_lm.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="rearranges a base of the architecture 'afm7'") as caught:
        planned(base, adapter, config={"model_type": "afm7"}, scratch=tmp_path)
    assert "mlx" in str(caught.value.hint)
    assert len(planned(base, adapter, scratch=tmp_path).modules) == 7  # by name, nothing is missing


def test_a_base_in_the_layout_of_the_hub_needs_a_known_architecture_or_the_class(
    tmp_path: Path, adapter: Path, planned: Planner
) -> None:
    base = tiny_models.make_base(tmp_path / "hub", layout="hf", layers=3)
    assert planned(base, adapter).modules
    assert planned(base, adapter, config={"model_type": "mistral"}).modules
    with pytest.raises(NeedsModelClassError, match="architecture 'mixtral'"):
        planned(base, adapter, config={"model_type": "mixtral"}, scratch=None)


def test_what_mlx_lm_rearranges_is_fused_through_its_class(tmp_path: Path, planned: Planner) -> None:
    pytest.importorskip("mlx_lm")
    import tiny_architectures

    base = tiny_architectures.make_architecture(tmp_path / "mixtral", "mixtral", layout="hf")
    experts = "model.layers.1.block_sparse_moe.experts"
    adapter = tiny_models.make_adapter(
        tmp_path / "adapter", base, num_layers=1, keys=["self_attn.q_proj", "self_attn.o_proj"]
    )
    with pytest.raises(NeedsModelClassError):
        planned(base, adapter, scratch=None)
    plan = planned(base, adapter)
    assert {module.path for module in plan.modules} == {
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.o_proj",
    }
    header = json.loads(plan.outputs[0].header[8:])
    assert len(header[f"{experts}.0.w3.weight"]["shape"]) == 2
    assert not any(".switch_mlp." in name for name in header)


def test_what_mlx_lm_drops_is_not_written(tmp_path: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "hub", kind="qwen2", layout="hf", tied=True)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    names = set(json.loads(planned(base, adapter).outputs[0].header[8:]))
    assert "lm_head.weight" not in names
    assert not any("inv_freq" in name for name in names)
    untied = set(
        json.loads(planned(base, adapter, config={"tie_word_embeddings": False}).outputs[0].header[8:])
    )
    assert "lm_head.weight" in untied
    with pytest.raises(FusionUnsupportedError, match="cannot load this base"):
        planned(base, adapter, config={"model_type": "qwen3"})


BASE_TENSORS: dict[str, tuple[Change, str]] = {
    "a format that MLX reads as bytes": (
        lambda t: t.update({"model.extra": ("F8_E4M3", np.zeros(4, np.uint8))}),
        "model.extra is F8_E4M3",
    ),
    "a head that mlx-lm would make up": (lambda t: t.pop("lm_head.weight"), "has no lm_head.weight"),
}


@pytest.mark.parametrize(("change", "reason"), BASE_TENSORS.values(), ids=BASE_TENSORS.keys())
def test_tensors_that_need_the_class(
    change: Change, reason: str, tmp_path: Path, adapter: Path, planned: Planner
) -> None:
    dense = tiny_models.make_base(tmp_path / "dense", layers=3)
    rewrite(dense, change)
    with pytest.raises(NeedsModelClassError, match=reason):
        planned(dense, adapter, config={"model_type": "minicpm"}, scratch=None)


def test_damaged_and_missing_files_are_told(base: Path, adapter: Path, planned: Planner) -> None:
    weights = base / "model.safetensors"
    (base / "model-extra.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(FormatError, match="two weight files"):
        planned(base, adapter)
    (base / "model-extra.safetensors").unlink()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        planned(base, adapter)
    weights.unlink()
    with pytest.raises(FormatError, match="no weights"):
        planned(base, adapter)
    (adapter / "adapters.safetensors").unlink()
    weights.write_bytes(build_header([]))
    with pytest.raises((MissingFileError, FusionUnsupportedError)):
        planned(base, adapter)
