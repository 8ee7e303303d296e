"""`fusery base calibrate`: a base in, a calibration out."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals


@pytest.mark.slow
def test_a_base_is_calibrated_once(stocked: Fusery, tmp_path: Path) -> None:
    require_refusals(
        stocked,
        ("calibrate nothing", "unknown_reference"),
        ("calibrate tiny --prompts absent.jsonl", "absent.jsonl"),
    )
    (tmp_path / "prompts.txt").write_text("The ferry leaves at seven.\nA second line.\n", encoding="utf-8")
    words = ("calibrate", "tiny", "--prompts", "prompts.txt", "--json")
    made, again = stocked(*words).json, stocked(*words).json
    assert (made["tokens"], made["created"], again["created"]) == (42, True, False)
    shown = stocked("base", "show", "tiny", "--json").json
    assert [row["digest"] for row in shown["calibrations"]] == [made["digest"]] == [again["digest"]]
