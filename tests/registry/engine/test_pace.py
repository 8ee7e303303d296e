"""What a fuse takes beside `keep`, said in a sentence where it is more than twice as much."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusery.registry.engine.calibration import Calibration
from fusery.registry.engine.pace import slowly
from fusery.registry.engine.policy import Policy

from .conftest import Planner


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
    assert times[0] > 5
    assert times[1] == pytest.approx(2 * times[0], rel=0.2)
    assert "takes less than a second of a processor" in shaped
