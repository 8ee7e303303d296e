"""What `fusery rules`, `approve` and `promote` refuse."""

from __future__ import annotations

from pathlib import Path

from fixture_types import Fusery

from .conftest import require_refusals


def test_what_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"approval": 1}', encoding="utf-8")
    cases = (
        "rules set prod", "rules set prod --approvals 0", "rules set prod --val-loss-within nan",
        "rules set prod --file bad.json", "rules set prod --file none.toml", "rules set latest --approvals 1",
        "rules show prod", "rules remove prod", "approve course_rec@9 prod", "approve course_rec@1 other#prod",
        "promote course_rec@9 prod", "promote course_rec@1 latest",
    )  # fmt: skip
    require_refusals(stocked, *((words, "") for words in cases))
