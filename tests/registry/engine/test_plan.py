"""What is written: every byte once, in the files and under the names that mlx-lm would choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import tiny_models

from fusery.registry.engine.plan import CopyStep, FusePlan
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.safetensors import tensor_bytes

from .conftest import Planner


def test_further_metadata_untouched_ranges_and_odd_files(base: Path, adapter: Path, planned: Planner) -> None:
    (base / "generation_config.json").write_text("{")  # malformed: passed over, as mlx-lm does
    plan = planned(base, adapter, metadata={"fusery.key": "ab" * 32})
    assert json.loads(plan.documents["config.json"])["eos_token_id"] == 258
    header = json.loads(plan.outputs[0].header[8:])
    assert header["__metadata__"] == {"format": "mlx", "fusery.key": "ab" * 32}
    assert len([step for step in plan.steps if isinstance(step, CopyStep)]) == 2, (
        "untouched ranges are joined"
    )
    for precision in ("", "auto", "KEEP", "x" * 99):
        with pytest.raises(FusionUnsupportedError):
            planned(base, adapter, precision)


SHARD = 100_000
POLICIES = {
    "keep": WritePolicy("keep"),
    "dither": WritePolicy("dither", seed=3),
    "mixed at 6 bits": WritePolicy("mixed", {"": 6}),
    "dequantize": WritePolicy("dequantize"),
    "mxfp4": WritePolicy("keep", quantize=Quantize(4, 32, "mxfp4")),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_every_byte_of_the_outputs_is_planned_once(
    kind: Literal["lora", "dora"],
    policy: WritePolicy,
    base: Path,
    dense: Path,
    tmp_path: Path,
    planned: Planner,
) -> None:
    for source in (base, dense):
        adapter = tiny_models.make_adapter(tmp_path / "any", source, num_layers=1, fine_tune_type=kind)
        assert_planned_once(planned(source, adapter, policy, shard=SHARD))


def assert_planned_once(plan: FusePlan) -> None:
    assert len(plan.outputs) > 1
    spans: dict[int, list[tuple[int, int]]] = {
        n: [(0, len(out.header))] for n, out in enumerate(plan.outputs)
    }
    for step in plan.steps:
        if isinstance(step, CopyStep):
            spans[step.place.output].append((step.place.offset, step.size))
            continue
        sizes = {part: tensor_bytes(dtype, shape) for part, dtype, shape in step.module.written()}
        places = {"weight": step.weight, "scales": step.scales, "biases": step.biases}
        for part, place in places.items():
            if place is not None:
                spans[place.output].append((place.offset, sizes.pop(part)))
        # What dithering leaves as it is, is copied.
        assert bool(sizes) is step.module.target.dither
    for number, output in enumerate(plan.outputs):
        names = json.loads(output.header[8:]).keys() - {"__metadata__"}
        assert output.size - len(output.header) <= SHARD or len(names) == 1
        position = 0
        for begin, size in sorted(spans[number]):
            assert begin == position
            position += size
        assert position == output.size


def test_mixed_widths_are_written_into_the_configuration(base: Path, adapter: Path, planned: Planner) -> None:
    up = "model.layers.2.mlp.up_proj"
    plan = planned(base, adapter, WritePolicy("mixed", {"": 5, up: 8}))
    written = json.loads(plan.documents["config.json"])["quantization"]
    touched = {f"model.layers.2.{key}" for key in tiny_models.LINEAR}
    entry = {"group_size": 64, "mode": "affine"}
    assert written == {"bits": 4, **entry} | {path: {"bits": 5, **entry} for path in touched} | {
        up: {"bits": 8, **entry}
    }
    header = json.loads(plan.outputs[0].header[8:])
    assert header[f"{up}.weight"] == header[f"{up}.weight"] | {"dtype": "U32", "shape": [256, 128 * 8 // 32]}
