"""A sample tells what the whole would say."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from fusery.registry.engine.calibration import Calibration
from fusery.registry.engine.policy import Policy
from fusery.registry.engine.sample import sample

from .conftest import OurFuse, Planner

POLICIES = [Policy("keep"), Policy("dither", seed=3), Policy("mixed", {"": 6}), Policy("dequantize")]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.precision)
def test_a_sample_is_near_the_whole(
    policy: Policy, tmp_path: Path, planned: Planner, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=32, hidden=256, intermediate=512)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.05, num_layers=-1)
    before = sorted(tmp_path.rglob("*.safetensors"))
    found = sample(planned(base, adapter, policy), threads=1)
    assert sorted(tmp_path.rglob("*.safetensors")) == before
    _, fused = our_fuse(base, adapter, policy)
    assert found.retained == pytest.approx(fused.fidelity.retained, abs=0.03)
    assert found.noise == pytest.approx(fused.fidelity.noise, rel=0.1)
    assert [module.module for module in found.modules] == [module.module for module in fused.fidelity.modules]
    assert sample(planned(base, adapter, policy), threads=3) == found


def test_a_shaped_sample(
    calibrated: tuple[Path, Path, Calibration], planned: Planner, our_fuse: OurFuse
) -> None:
    base, adapter, calibration = calibrated
    shaped = Policy("dither", fitted=True, calibration=calibration)
    found, whole = sample(planned(base, adapter, shaped)), our_fuse(base, adapter, shaped)[1].fidelity
    assert found.retained == pytest.approx(whole.retained, abs=0.02)
    assert found.noise == pytest.approx(whole.noise, rel=0.15)
    assert found != sample(planned(base, adapter, Policy("dither", fitted=True)))
