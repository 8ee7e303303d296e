"""What a fuse takes beside `keep`, said in a sentence where it is more than twice as much."""

from __future__ import annotations

import re
from pathlib import Path

import tiny_models

from fusery.registry.engine.calibration import Calibration
from fusery.registry.engine.pace import slowly
from fusery.registry.engine.plan import Plan
from fusery.registry.engine.policy import Policy

from .conftest import Planner


def times(plan: Plan) -> int:
    found = re.search(r"about (\d+) times", slowly(plan) or "")
    assert found
    return int(found[1])


def test_only_shaping_is_slow(
    calibrated: tuple[Path, Path, Calibration], planned: Planner, tmp_path: Path
) -> None:
    base, adapter, calibration = calibrated
    for policy in (Policy("keep"), Policy("dither"), Policy("dequantize"), Policy("mixed", bits={"": 6})):
        assert slowly(planned(base, adapter, policy)) is None
    shaped, fitted = (Policy("dither", calibration=calibration, fitted=fitted) for fitted in (False, True))
    assert 5 < times(planned(base, adapter, shaped)) < times(planned(base, adapter, fitted))
    large = tiny_models.make_adapter(tmp_path / "large", base, rank=64, update=0.02)
    assert times(planned(base, large, fitted)) > 0.6 * times(planned(base, adapter, fitted))
