"""What a fuse takes beside `keep`, said in a sentence where it is more than twice as much."""

from __future__ import annotations

import re
from pathlib import Path

import tiny_models

from fusery.registry.engine.calibration import Calibration
from fusery.registry.engine.pace import slowly
from fusery.registry.engine.policy import Policy

from .conftest import Planner


def test_it_counts_the_directions(
    calibrated: tuple[Path, Path, Calibration], planned: Planner, tmp_path: Path
) -> None:
    """The fit solves a matrix of as many as there are; what `keep` takes grows as the rank does."""
    base, _, calibration = calibrated
    times = []
    for rank in (8, 64):
        adapter = tiny_models.make_adapter(tmp_path / f"rank-{rank}", base, rank=rank, update=0.02)
        said = slowly(planned(base, adapter, Policy("dither", calibration=calibration, fitted=True)))
        assert said is not None
        times.append(int(re.search(r"about (\d+) times", said)[1]))  # type: ignore[index]
    assert times[1] > 0.6 * times[0]


def test_only_what_a_calibration_shapes_is_said_to_be_slow(
    calibrated: tuple[Path, Path, Calibration], planned: Planner
) -> None:
    base, adapter, calibration = calibrated
    for policy in (Policy("keep"), Policy("dither"), Policy("dequantize"), Policy("mixed", bits={"": 6})):
        assert slowly(planned(base, adapter, policy)) is None
    shaped, fitted = (
        slowly(planned(base, adapter, Policy("dither", calibration=calibration, fitted=fitted)))
        for fitted in (False, True)
    )
    assert shaped is not None
    assert fitted is not None
    times = [int(re.search(r"about (\d+) times what keep takes", said)[1]) for said in (shaped, fitted)]  # type: ignore[index]
    assert 5 < times[0] < times[1]
    assert "takes less than a second of a processor" in shaped
