"""Full fine-tunes: whole tensors take the place of the base's, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw

from fusery.registry.engine.config import INDEX
from fusery.registry.engine.plan import Compute, Plan
from fusery.registry.engine.policy import Policy, Quantize
from fusery.registry.engine.precisions import KEEP
from fusery.registry.errors import FusionUnsupportedError

MlxFuse = Callable[..., Path]
OurFuse = Callable[..., Any]
Planner = Callable[..., Plan]
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
    """Return what a fine-tune of the last block may have made of it: the same kind of numbers, others."""
    other = tiny_models.make_base(
        base.parent / "other", seed=7, **json.loads((base / "made.json").read_text())
    )
    return {name: value for name, value in load_raw(other).items() if name.startswith("model.layers.3.")}


def make_base(folder: Path, **options: Any) -> Path:
    base = tiny_models.make_base(folder, **options)
    (base / "made.json").write_text(json.dumps(options))
    return base


def assert_same(theirs: Path, ours: Path) -> None:
    expected, found = tiny_models.read_tensors(theirs), tiny_models.read_tensors(ours)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    for name in ("config.json", INDEX):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


BASES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "f16 with biases": {"dtype": "float16", "bias": True},
    "bf16, layout of the hub, two shards": {"layout": "hf", "shards": 2},
    "4 bits": {"bits": 4},
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


def test_of_a_quantised_base_norms_alone(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    # What the trainer can train of a quantised base.
    base = make_base(tmp_path / "base", bits=4)
    norms = {name: value for name, value in last_block(base).items() if "layernorm" in name}
    adapter = make_full(tmp_path / "adapter", base, norms)
    for precision in ("keep", "dequantize"):
        theirs = mlx_fuse(base, adapter, dequantize=precision == "dequantize", name=f"theirs-{precision}")
        assert_same(theirs, our_fuse(base, adapter, precision, name=precision)[0])
    kept = our_fuse(base, adapter, name="again")[0]
    for precision in ("dither", "mixed"):  # nothing is rounded, so nothing needs more bits
        assert_same(kept, our_fuse(base, adapter, precision, name=precision)[0])


def test_another_format_is_taken_as_it_is(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    base = make_base(tmp_path / "base")
    wide = {f"{_UP}.weight": ("F32", np.ones((256, 128), np.float32))}
    adapter = make_full(tmp_path / "adapter", base, wide)
    assert_same(mlx_fuse(base, adapter), our_fuse(base, adapter)[0])


def test_an_empty_fine_tune_is_a_copy_of_the_base(
    tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = make_base(tmp_path / "base", bits=4)
    adapter = make_full(tmp_path / "adapter", base, {})
    ours, _ = our_fuse(base, adapter)
    assert tiny_models.read_tensors(ours) == tiny_models.read_tensors(base)
    assert_same(mlx_fuse(base, adapter), ours)


def test_a_fine_tune_can_be_quantised(tmp_path: Path, planned: Planner) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_full(tmp_path / "adapter", base, last_block(base))
    plan = planned(base, adapter, Policy(KEEP, quantize=Quantize(4, 64)))
    computed = {step.module.path: step.module for step in plan.steps if isinstance(step, Compute)}
    assert len(computed) == 4 * 7 + 2
    assert computed[_UP].weight.file != computed["lm_head"].weight.file
    assert plan.modules == ()


REFUSED: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "a stranger": (
        {},
        {"model.layers.9.mlp.up_proj.weight": ("BF16", np.zeros((256, 128), np.uint16))},
        "have",
    ),
    "another shape": ({}, {f"{_UP}.weight": ("BF16", np.zeros((128, 256), np.uint16))}, "the base's is"),
    "dense for packed": (
        {"bits": 4},
        {f"{_UP}.weight": ("BF16", np.zeros((256, 128), np.uint16))},
        "the base's is",
    ),
    "words of another type": (
        {"bits": 4},
        {f"{_UP}.weight": ("F32", np.zeros((256, 16), np.float32))},
        "F32",
    ),
    "whole numbers for dense ones": ({}, {f"{_UP}.weight": ("U32", np.zeros((256, 128), np.uint32))}, "U32"),
    "a format that MLX reads as bytes": (
        {},
        {f"{_UP}.weight": ("F8_E4M3", np.zeros((256, 128), np.uint8))},
        "F8_E4M3",
    ),
}


@pytest.mark.parametrize(("options", "tensors", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_tensors_that_are_refused(
    options: dict[str, Any], tensors: Tensors, reason: str, tmp_path: Path, planned: Planner
) -> None:
    base = make_base(tmp_path / "base", **options)
    adapter = make_full(tmp_path / "adapter", base, tensors)
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        planned(base, adapter)
    assert caught.value.hint == "was it trained on another base?"
