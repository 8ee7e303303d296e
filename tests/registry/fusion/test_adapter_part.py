"""Which updates a base's biases can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from peft_folders import edit_config

from fusery.registry import Registry
from fusery.registry.fusion.adapter_part import fits_biases
from fusery.registry.fusion.request import FuseRequest

OWN = {"group_size": 64, "bits": 4}


SPECIAL = "model.layers.0.mlp.up_proj"


def test_every_module_has_whole_groups() -> None:
    cases: tuple[tuple[list[int | None], dict[str, Any] | None, bool], ...] = (
        ([64], OWN, True),
        ([128, 64], OWN, True),
        ([32], OWN, False),
        ([64, None], OWN, False),
        ([64], None, False),
        ([32], {"group_size": 32, "bits": 4, "mode": "mxfp4"}, False),
        ([64], {**OWN, "lm_head": False}, True),
        ([64], {**OWN, SPECIAL: {"bits": 8}}, True),
        ([64], {**OWN, SPECIAL: {"group_size": 128, "bits": 4}}, False),
        ([128], {**OWN, SPECIAL: {"group_size": 128, "bits": 4}}, True),
        ([64], {**OWN, "lm_head": {"group_size": 32, "bits": 8, "mode": "mxfp8"}}, False),
    )
    for groups, quantization, fits in cases:
        assert fits_biases(groups, quantization) is fits, (groups, quantization)


def test_magnitudes_are_in_no_biases(sqlite_registry: Registry, tmp_path: Path) -> None:
    """A DoRA whose A is constant within the base's groups, and whose configuration says QA-LoRA."""
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=64)
    adapter = tiny_models.make_adapter(tmp_path / "dora", base, fine_tune_type="dora", update=0.05)
    file = adapter / "adapters.safetensors"
    even = {}
    for name, (dtype, shape, data) in tiny_models.read_tensors(file).items():
        values = np.frombuffer(data, np.float32).reshape(shape)
        even[name] = dtype, np.repeat(values[::64], 64, axis=0) if name.endswith("lora_a") else values
    tiny_models.write_tensors(file, even, None)
    sqlite_registry.bases.add(base, name="base")
    plain = sqlite_registry.adapters.register(adapter, base="base", task="plain")
    edit_config(adapter, use_qalora=True, qalora_group_size=64)
    said = sqlite_registry.adapters.register(adapter, base="base", task="said")
    request = FuseRequest("keep", accept_loss=True)
    made = [sqlite_registry.fused.fuse(each.name, request) for each in (plain, said)]
    assert "biases" not in made[1].recipe
    assert made[0].fidelity == made[1].fidelity
    wrote = [tiny_models.read_tensors(each.path / "model.safetensors") for each in made]
    assert wrote[0] == wrote[1]
