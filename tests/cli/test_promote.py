"""What `fusery alias rules`, `approve` and `promote` refuse, and a promotion to a worse version."""

from __future__ import annotations

from pathlib import Path

from fixture_types import Fusery

from .conftest import require_refusals


def test_what_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"approval": 1}', encoding="utf-8")
    cases = (
        "alias rules set prod", "alias rules set prod --approvals 0", "alias rules set prod --val-loss-within nan",
        "alias rules set prod --file bad.json", "alias rules set prod --file none.toml", "alias rules set latest --approvals 1",
        "alias rules show prod", "alias rules remove prod", "alias approve course_rec@9 prod", "alias approve course_rec@1 other#prod",
        "promote course_rec@9 prod", "promote course_rec@1 latest",
    )  # fmt: skip
    require_refusals(stocked, *((words, "") for words in cases))


def test_a_promotion_to_a_version_that_was_measured_worse_says_so(stocked: Fusery) -> None:
    stocked("edit", "course_rec@2", "--dataset", "data", "--reason", "same")
    notes = [
        [line for line in stocked("promote", version, "prod").err.splitlines() if line.startswith("Note: ")]
        for version in ("course_rec@1", "course_rec@2", "course_rec@1")
    ]
    assert notes[:2] == [[], []]
    assert "course_rec@2" in notes[2][0]
