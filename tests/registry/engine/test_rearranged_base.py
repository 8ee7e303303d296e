"""A base whose tensors mlx-lm renames and stacks: taken in, adapted and fused like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import adapters_by_class
import fuse_cases
import pytest
import tiny_architectures
import tiny_models
from tensor_files import load_raw

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

pytest.importorskip("mlx_lm")


def test_experts_of_a_base_in_the_layout_of_the_hub(
    registry: Registry, tmp_path: Path, mlx_fuse: Callable[..., Path]
) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "mixture", "mixtral", layout="hf")
    assert any(".experts.0." in name for name in load_raw(base / "model.safetensors"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    registry.bases.add(str(base), name="mixture")
    registry.adapters.register(adapter, base="mixture", task="mixed")
    fused = registry.fused.fuse("mixed@1", FuseRequest("keep", accept_loss=True))
    theirs = mlx_fuse(base, adapter)
    assert fuse_cases.mlx_tensors(fused.path) == tiny_models.read_tensors(theirs)
    names = tiny_models.read_tensors(fused.path).keys()
    assert names == tiny_models.read_tensors(base).keys()
    assert json.loads((fused.path / "config.json").read_text())["model_type"] == "mixtral"
    assert "mlx-lm" in fused["engine"]
    assert registry.upkeep.audit().ok
