"""What `auto` goes by: samples, what the log has of them, and what fits into a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from fusery.registry import FuseRequest, Registry
from fusery.registry.errors import FidelityError
from fusery.registry.fusion.known import REFUSED


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A 4-bit base, and an adapter whose update falls between the steps of its quantisation."""
    folder = tmp_path_factory.mktemp("chosen")
    base = tiny_models.make_base(folder / "tiny4", bits=4, group_size=64)
    return base, tiny_models.make_adapter(folder / "adapter", base, update=0.05)


@pytest.fixture
def calibrated(registry: Registry, folders: tuple[Path, Path], tmp_path: Path) -> Registry:
    """A registry with the adapter `task@1` of a base that has a calibration."""
    base, adapter = folders
    registry.bases.add(base, name="tiny4")
    registry.adapters.register(adapter, base="tiny4", task="task")
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\nthe dog lay under it\n")
    registry.bases.calibrate("tiny4", prompts=tmp_path / "prompts.txt")
    return registry


def test_a_sample_decides_against_no_model_that_a_calibration_shapes(calibrated: Registry) -> None:
    """`auto` looks at random rounding of an eighth of the rows: not at what is written."""
    assert calibrated.fused.fuse("task@1").precision == "mixed"
    (sample,) = [
        log.detail for log in calibrated.upkeep.log(action=REFUSED) if log.detail["precision"] == "dither"
    ]
    assert sample["sampled"]
    retained = sample["retained"]
    assert isinstance(retained, float)
    assert 0.9 < retained < 0.995
    request = FuseRequest("dither", min_fidelity=0.995)
    (row,) = [
        row
        for row in calibrated.fused.formats("task@1", FuseRequest(min_fidelity=0.995)).formats
        if row.precision == "dither"
    ]
    assert row.sampled
    shaped = calibrated.fused.fuse("task@1", request)
    assert (shaped.source, shaped.fidelity.verdict) == ("computed", "PASS")
    assert (shaped.fidelity.retained or 0.0) > 0.995


def test_a_sample_spares_auto_another_one_and_is_no_refusal(calibrated: Registry) -> None:
    calibrated.fused.fuse("task@1")
    logged = len(calibrated.upkeep.log(action=REFUSED))
    assert calibrated.fused.fuse("task@1").cached
    assert len(calibrated.upkeep.log(action=REFUSED)) == logged
    for precision, status in (("auto", "refused"), ("dither", "miss"), ("keep", "miss")):
        model = calibrated.fused.explain("task@1", FuseRequest(precision)).models[0]
        assert model.status == status, model.reason
    with pytest.raises(FidelityError, match="would lose the adapter"):
        calibrated.fused.fuse("task@1", FuseRequest("keep"))
    assert calibrated.fused.explain("task@1", FuseRequest("keep")).models[0].status == "refused"
    assert len(calibrated.upkeep.log(action=REFUSED)) == logged + 1, "all of its rows were measured"
