"""Full fine-tunes: whole tensors take the place of the base's, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from fuse_cases import assert_same
from tensor_files import load_raw

from fusery.registry.engine.plan import ComputeStep
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.engine.recipe import KEEP
from fusery.registry.errors import FusionUnsupportedError

from .conftest import MlxFuse, OurFuse, Planner

_UP = "model.layers.3.mlp.up_proj"
Tensors = dict[str, tiny_models.Raw]


def make_full(folder: Path, base: Path, tensors: Tensors) -> Path:
    tiny_models.make_adapter(folder, base, num_layers=1)
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, None)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings |= {"fine_tune_type": "full", "lora_parameters": None}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def last_block(base: Path) -> Tensors:
    other = tiny_models.make_base(
        base.parent / "other", seed=7, **json.loads((base / "made.json").read_text())
    )
    return {name: value for name, value in load_raw(other).items() if name.startswith("model.layers.3.")}


def make_base(folder: Path, **options: Any) -> Path:
    base = tiny_models.make_base(folder, **options)
    (base / "made.json").write_text(json.dumps(options))
    return base


BASES: dict[str, dict[str, Any]] = {
    "bf16, layout of the hub, two shards": {"layout": "hf", "shards": 2},
    "8 bits, some modules dense": {"bits": 8, "overrides": {_UP: False}},
}


@pytest.mark.parametrize("dequantize", [False, True], ids=["keep", "dequantize"])
@pytest.mark.parametrize("options", BASES.values(), ids=BASES.keys())
def test_tensors_are_replaced_as_mlx_lm_does(
    options: dict[str, Any], dequantize: bool, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = make_base(tmp_path / "base", **options)
    trained = {name: value for name, value in last_block(base).items() if "inv_freq" not in name}
    adapter = make_full(tmp_path / "adapter", base, trained)
    theirs = mlx_fuse(base, adapter, dequantize=dequantize)
    ours, fused = our_fuse(base, adapter, "dequantize" if dequantize else "keep")
    assert_same(theirs, ours)
    assert fused.fidelity.modules == ()
    if not dequantize:
        after, before = tiny_models.read_tensors(ours), tiny_models.read_tensors(base)
        assert {name for name in after if after[name] != before[name]} == trained.keys()
        for name, (_, value) in trained.items():
            assert after[name][2] == value.tobytes()


@pytest.mark.parametrize(
    ("options", "tensors"),
    [({}, {f"{_UP}.weight": ("F32", np.ones((256, 128), np.float32))}), ({"bits": 4}, {})],
    ids=["another format is taken as it is", "nothing is a copy of the base"],
)
def test_odd_fine_tunes(
    options: dict[str, Any], tensors: Tensors, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = make_base(tmp_path / "base", **options)
    adapter = make_full(tmp_path / "adapter", base, tensors)
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)
    if not tensors:
        assert tiny_models.read_tensors(ours) == tiny_models.read_tensors(base)


def test_a_fine_tune_can_be_quantised(tmp_path: Path, planned: Planner) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_full(tmp_path / "adapter", base, last_block(base))
    plan = planned(base, adapter, WritePolicy(KEEP, quantize=Quantize(4, 64)))
    computed = {step.module.path: step.module for step in plan.steps if isinstance(step, ComputeStep)}
    assert len(computed) == 4 * 7 + 2
    assert computed[_UP].weight.file != computed["lm_head"].weight.file
    assert plan.modules == ()


REFUSED: dict[str, tuple[dict[str, Any], tiny_models.Raw]] = {
    "another shape": ({}, ("BF16", np.zeros((128, 256), np.uint16))),
    "dense for packed": ({"bits": 4}, ("BF16", np.zeros((256, 128), np.uint16))),
    "a format that MLX reads as bytes": ({}, ("F8_E4M3", np.zeros((256, 128), np.uint8))),
}


@pytest.mark.parametrize(("options", "raw"), REFUSED.values(), ids=REFUSED)
def test_refused(options: dict[str, Any], raw: tiny_models.Raw, tmp_path: Path, planned: Planner) -> None:
    base = make_base(tmp_path / "base", **options)
    with pytest.raises(FusionUnsupportedError):
        planned(base, make_full(tmp_path / "adapter", base, {f"{_UP}.weight": raw}))
    strange = ("BF16", np.zeros((256, 128), np.uint16))
    with pytest.raises(FusionUnsupportedError):
        planned(base, make_full(tmp_path / "strange", base, {"model.layers.9.mlp.up_proj.weight": strange}))
