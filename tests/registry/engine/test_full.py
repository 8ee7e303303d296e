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
DENSE: tiny_models.Raw = ("BF16", np.zeros((256, 128), np.uint16))


def make_full(folder: Path, base: Path, tensors: Tensors) -> Path:
    tiny_models.make_adapter(folder, base, num_layers=1)
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, None)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings |= {"fine_tune_type": "full", "lora_parameters": None}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def last_block(base: Path) -> Tensors:
    other = tiny_models.make_base(base.parent / "other", seed=7)
    return {name: value for name, value in load_raw(other).items() if name.startswith("model.layers.3.")}


@pytest.mark.parametrize(
    ("options", "tensors"),
    [({}, {f"{_UP}.weight": ("F32", np.ones((256, 128), np.float32))}), ({"bits": 4}, {})],
    ids=["another format is taken as it is", "nothing is a copy of the base"],
)
def test_odd_fine_tunes(
    options: dict[str, Any], tensors: Tensors, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", **options)
    adapter = make_full(tmp_path / "adapter", base, tensors)
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)
    if not tensors:
        assert tiny_models.read_tensors(ours) == tiny_models.read_tensors(base)


def test_a_fine_tune_can_be_quantised(tmp_path: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "base")
    adapter = make_full(tmp_path / "adapter", base, last_block(base))
    plan = planned(base, adapter, WritePolicy(KEEP, quantize=Quantize(4, 64)))
    computed = {step.module.path: step.module for step in plan.steps if isinstance(step, ComputeStep)}
    assert len(computed) == 4 * 7 + 2
    assert computed[_UP].weight.file != computed["lm_head"].weight.file
    assert plan.modules == ()


REFUSED: dict[str, tuple[str, tiny_models.Raw]] = {
    "another shape": (_UP, ("BF16", np.zeros((128, 256), np.uint16))),
    "a format that MLX reads as bytes": (_UP, ("F8_E4M3", np.zeros((256, 128), np.uint8))),
    "a module that the base lacks": ("model.layers.9.mlp.up_proj", DENSE),
}


def test_refused(tmp_path: Path, planned: Planner) -> None:
    dense, packed = (tiny_models.make_base(tmp_path / f"base-{bits}", bits=bits) for bits in (None, 4))
    assert planned(dense, make_full(tmp_path / "good", dense, {f"{_UP}.weight": DENSE}))
    for name, (module, raw) in REFUSED.items():
        with pytest.raises(FusionUnsupportedError):
            planned(dense, make_full(tmp_path / name, dense, {f"{module}.weight": raw}))
    with pytest.raises(FusionUnsupportedError):
        planned(packed, make_full(tmp_path / "dense for packed", packed, {f"{_UP}.weight": DENSE}))
