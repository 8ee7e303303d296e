"""A sample tells what the whole would say, and how long it takes; bits module by module under a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import BF16
from fusery.registry.engine.calibration import CalibrationFile
from fusery.registry.engine.engine import Sampled, allocate, own_bits, sample
from fusery.registry.engine.fidelity import FuseFidelity, ModuleShare
from fusery.registry.engine.microscaling import MODES
from fusery.registry.engine.plan import FusePlan
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.recipe import OWN
from fusery.registry.engine.work import cost

from .conftest import OurFuse, Planner

POLICIES = [
    WritePolicy("keep"),
    WritePolicy("dither", seed=3),
    WritePolicy("mixed", {"": 6}),
    WritePolicy("dequantize"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.precision)
def test_a_sample_is_near_the_whole(
    policy: WritePolicy, tmp_path: Path, planned: Planner, our_fuse: OurFuse
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
    calibrated: tuple[Path, Path, CalibrationFile], planned: Planner, our_fuse: OurFuse
) -> None:
    base, adapter, calibration = calibrated
    shaped = WritePolicy("dither", fitted=True, calibration=calibration)
    found, whole = sample(planned(base, adapter, shaped)), our_fuse(base, adapter, shaped)[1].fidelity
    assert found.retained == pytest.approx(whole.retained, abs=0.02)
    assert found.noise == pytest.approx(whole.noise, rel=0.15)
    assert found != sample(planned(base, adapter, WritePolicy("dither", fitted=True)))


def duration(plan: FusePlan) -> float:
    return sum(map(cost, plan.steps))


def test_shaping_costs_most(
    calibrated: tuple[Path, Path, CalibrationFile], planned: Planner, tmp_path: Path
) -> None:
    base, adapter, calibration = calibrated
    kept = duration(planned(base, adapter, WritePolicy("keep")))
    assert duration(planned(base, adapter, WritePolicy("dither"))) == pytest.approx(kept, rel=0.02)
    shaped, fitted = (
        WritePolicy("dither", calibration=calibration, fitted=fitted) for fitted in (False, True)
    )
    assert 3 * kept < duration(planned(base, adapter, shaped)) < duration(planned(base, adapter, fitted))
    large = tiny_models.make_adapter(tmp_path / "large", base, rank=64, update=0.02)
    assert kept < duration(planned(base, large, WritePolicy("keep")))
    assert duration(planned(base, adapter, fitted)) < duration(planned(base, large, fitted))


def sampled(
    retained: dict[str, float], numbers: dict[str, int], bits: int, error: float = 0.5, base: int = 4
) -> Sampled:
    modules = tuple(ModuleShare(path, 1.0, share, 0.5, error) for path, share in retained.items())
    sizes = {path: count * (bits or base) // 8 for path, count in numbers.items()}
    fidelity = FuseFidelity("PASS", 1.0, 1.0, 1.0, 0.0, 0.0, modules)
    return Sampled(fidelity, 0, sizes, dict.fromkeys(numbers, base))


NUMBERS = {"large": 8000, "small": 800}
SAMPLES = {
    OWN: sampled({"large": 0.1, "small": 0.1}, NUMBERS, OWN),
    5: sampled({"large": 0.05, "small": 0.05}, NUMBERS, 5),  # worse than 4 bits: it must be stepped over
    8: sampled({"large": 1.0, "small": 1.0}, NUMBERS, 8),
}


def test_what_brings_most_per_byte_goes_first() -> None:
    assert allocate(SAMPLES, 0) == {"large": 4, "small": 4}
    assert allocate(SAMPLES, 400) == {"large": 4, "small": 8}
    assert allocate(SAMPLES, 4000) == {"large": 4, "small": 8}
    assert allocate(SAMPLES, 4400) == {"large": 8, "small": 8}


def test_a_module_that_keeps_everything_gets_no_more_bits() -> None:
    numbers = {"a": 800, "b": 800}
    samples = {
        OWN: sampled({"a": 1.0, "b": 0.2}, numbers, OWN, 0.0),
        8: sampled({"a": 1.0, "b": 0.9}, numbers, 8, 0.1),
    }
    assert allocate(samples, 1e9) == {"a": 4, "b": 8}


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(st.integers(8, 10_000), st.lists(st.floats(-1, 2), min_size=4, max_size=4)),
        min_size=1,
    ),
    st.floats(0, 50_000),
)
def test_the_budget_is_never_exceeded(modules: dict[str, tuple[int, list[float]]], room: float) -> None:
    numbers = {path: count for path, (count, _) in modules.items()}
    samples = {
        bits: sampled({path: shares[place] for path, (_, shares) in modules.items()}, numbers, bits)
        for place, bits in enumerate((OWN, 5, 6, 8))
    }
    bits = allocate(samples, room)
    assert bits.keys() == modules.keys()
    spent = sum(
        samples[OWN if wide == 4 else wide].sizes[path] - samples[OWN].sizes[path]
        for path, wide in bits.items()
    )
    assert spent <= room


def test_a_step_costs_what_it_writes_more() -> None:
    """4.25 bits a number of mxfp4 are no affine 4: those have a scale and a bias in 16 bits each, 5 bits a number."""
    rows = {"a": 320, "b": 320}
    kept = Sampled(sampled({"a": 0.1, "b": 0.2}, rows, OWN).fidelity, 0, {"a": 170, "b": 170}, {"a": OWN})
    wide = Sampled(sampled({"a": 1.0, "b": 1.0}, rows, 5).fidelity, 0, {"a": 240, "b": 240})
    assert allocate({OWN: kept, 5: wide}, 69) == {"a": OWN, "b": OWN}
    assert allocate({OWN: kept, 5: wide}, 70) == {"a": 5, "b": OWN}


def test_what_a_recipe_calls_the_format_of_the_base() -> None:
    affine, floats = {"bits": 4, "group_size": 64}, {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    assert own_bits(Grid(8, 32, BF16), affine) == own_bits(Grid(8, 32, BF16), floats) == 8
    assert own_bits(MODES["mxfp4"], affine) == own_bits(MODES["mxfp4"], floats) == OWN
    assert [own_bits(None, said) for said in (affine, floats, None)] == [4, OWN, OWN]
