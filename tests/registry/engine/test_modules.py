"""Which modules a fuse computes: what the adapter's configuration wraps, and what the policy rewrites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tensor_files import rewrite

from fusery.registry.engine.architectures import NeedsModelClassError
from fusery.registry.engine.plan import ComputeStep, FusePlan
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.engine.recipe import KEEP
from fusery.registry.errors import FusionUnsupportedError

from .conftest import Planner

_W = "model.layers.2.mlp.up_proj"
_ALL = {f"model.layers.{n}.{key}" for n in range(3) for key in tiny_models.LINEAR} | {
    "model.embed_tokens",
    "lm_head",
}


def computed(plan: FusePlan) -> set[str]:
    return {step.module.path for step in plan.steps if isinstance(step, ComputeStep)}


def test_which_modules_are_computed(base: Path, dense: Path, adapter: Path, planned: Planner) -> None:
    touched = {f"model.layers.2.{key}" for key in tiny_models.LINEAR}
    for precision in ("keep", "dither", "mixed"):
        assert computed(planned(base, adapter, precision)) == touched
    for precision in ("keep", "dither", "mixed", "dequantize"):
        assert computed(planned(dense, adapter, precision)) == touched
    assert computed(planned(base, adapter, "dequantize")) == _ALL
    anew = WritePolicy(KEEP, quantize=Quantize(8, 64))
    for folder in (base, dense):
        plan = planned(folder, adapter, anew)
        assert computed(plan) == _ALL
        assert {module.path for module in plan.modules} == touched


def test_what_cannot_be_cut_into_groups_is_not_quantised(tmp_path: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "narrow", hidden=96, intermediate=128, layers=1)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)
    plan = planned(base, adapter, WritePolicy(KEEP, quantize=Quantize(4, 128)))
    targets = {
        step.module.path: step.module.target.grid for step in plan.steps if isinstance(step, ComputeStep)
    }
    assert {path for path, grid in targets.items() if grid is not None} == {"model.layers.0.mlp.down_proj"}
    assert "lm_head" not in targets  # neither touched nor quantised: a copy


def test_layers_need_the_class(
    base: Path, dense: Path, adapter: Path, tmp_path: Path, planned: Planner
) -> None:
    partial = tiny_models.make_adapter(tmp_path / "partial", base, num_layers=1, skip=[_W])
    assert len(planned(base, partial).modules) == 7
    unknown = {"model_type": "some_mixture"}
    with pytest.raises(NeedsModelClassError):
        planned(base, partial, config=unknown, scratch=None)
    explicit = {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": list(tiny_models.LINEAR)}}
    assert len(planned(base, partial, config=unknown, adapter_config=explicit).modules) == 7
    # Of a partial DoRA the other layers stay as they are: some years only some layers were adapted by default.
    dora = tiny_models.make_adapter(tmp_path / "dora", base, num_layers=1, skip=[_W], fine_tune_type="dora")
    assert _W not in {module.path for module in planned(base, dora).modules}
    with pytest.raises(NeedsModelClassError):  # which layers can be quantised is not known either
        planned(dense, adapter, WritePolicy(KEEP, quantize=Quantize(4, 64)), config=unknown, scratch=None)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: Path, planned: Planner) -> None:
    other = tiny_models.make_base(tmp_path / "other", hidden=64, layers=3)
    with pytest.raises(FusionUnsupportedError):
        planned(base, tiny_models.make_adapter(tmp_path / "narrow", other, num_layers=1))
    deeper = tiny_models.make_base(tmp_path / "deeper", layers=5)
    with pytest.raises(FusionUnsupportedError):
        planned(base, tiny_models.make_adapter(tmp_path / "deep", deeper, num_layers=1))


@pytest.mark.parametrize(
    "raw", [("U32", np.zeros((256, 128), np.uint32)), ("BF16", np.zeros((256, 4, 4, 8), np.uint16))]
)
def test_a_dense_weight_of_another_kind(
    raw: tiny_models.Raw, dense: Path, adapter: Path, planned: Planner
) -> None:
    rewrite(dense, lambda t: t.update({f"{_W}.weight": raw}))
    with pytest.raises(FusionUnsupportedError):
        planned(dense, adapter)


def test_several_lists_of_blocks(tmp_path: Path, dense: Path, adapter: Path, planned: Planner) -> None:
    rewrite(dense, lambda t: t.update({"vision_tower.blocks.0.proj.weight": t[f"{_W}.weight"]}))
    assert len(planned(dense, adapter).modules) == 7
    rewrite(dense, lambda t: t.update({"model.layers_too.layers.0.proj.weight": t[f"{_W}.weight"]}))
    assert len(planned(dense, adapter).modules) == 7
    both = tiny_models.make_adapter(tmp_path / "both", dense, num_layers=1)
    rewrite(
        both,
        lambda t: t.update(
            {f"vision_tower.blocks.0.proj.{part}": t[f"{_W}.{part}"] for part in ("lora_a", "lora_b")}
        ),
    )
    with pytest.raises(NeedsModelClassError):
        planned(dense, both, scratch=None)


def test_an_adapter_of_root_modules_alone(tmp_path: Path, dense: Path, planned: Planner) -> None:
    rewrite(dense, lambda t: t.update({"vision_tower.blocks.0.proj.weight": t[f"{_W}.weight"]}))
    square = tiny_models.make_base(tmp_path / "square", layers=1, hidden=320, vocab=320)
    for base in (dense, square):
        keys = ["lm_head", "model.embed_tokens"]
        adapter = tiny_models.make_adapter(tmp_path / f"roots of {base.name}", base, keys=keys)
        found = {module.path: module.embedding for module in planned(base, adapter).modules}
        assert found == {"model.embed_tokens": True, "lm_head": False}


def test_experts_are_rows_one_behind_the_other(dense: Path, adapter: Path, planned: Planner) -> None:
    experts, a, b = (np.zeros(shape, np.float32) for shape in ((4, 256, 128), (4, 8, 128), (4, 256, 8)))
    rewrite(dense, lambda t: t.update({f"{_W}.weight": ("F32", experts)}))
    rewrite(adapter, lambda t: t.update({f"{_W}.lora_a": ("F32", a), f"{_W}.lora_b": ("F32", b)}))
    module = next(module for module in planned(dense, adapter).modules if module.path == _W)
    assert (module.experts, module.rows, module.columns) == (4, 1024, 128)
    assert (module.weight.shape[:-1], module.rank, module.embedding) == ((4, 256), 8, False)
    rewrite(dense, lambda t: t.update({f"{_W}.weight": ("F32", experts[:3])}))
    with pytest.raises(FusionUnsupportedError):
        planned(dense, adapter)
