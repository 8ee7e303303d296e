"""What the comparison of two revisions notes and shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import compare
import pytest


def row(case: str, ratio: float, commit: str = "b") -> compare.Row:
    return {
        "case": case,
        "before": 1.0,
        "after": ratio,
        "ratio": ratio,
        "processors": ratio,
        "runs": 9,
        "date": "2026-11-28",
        "commits": ["a", commit],
    }


def test_a_row_takes_the_place_of_an_earlier_one_of_its_case(tmp_path: Path) -> None:
    found = compare.noted([row("list", 1.0), row("show", 2.0)], [row("list", 0.5, "c")])
    assert [(each["case"], each["ratio"], each["commits"]) for each in found] == [
        ("list", 0.5, ["a", "c"]),
        ("show", 2.0, ["a", "b"]),
    ]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{compare.MARKS[0]}\nold\n{compare.MARKS[1]}\nafter\n")
    compare.put(page, found)
    text = page.read_text()
    assert "| `fusery list` | 1.00 s | 0.50 s | 0.50 | 0.50 | 2026-11-28, a to c, 9 pairs |" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="no place"):
        compare.put(page, found)


def test_pairs_are_run_in_turn_and_the_ratio_is_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine becomes ten times as slow in the middle: the ratio of pairs does not show it.
    ran: list[str] = []

    def run(self: compare.Revision, words: list[str]) -> tuple[float, float]:
        ran.append(self.commit)
        slow = 10.0 if len(ran) > 8 else 1.0
        return slow * (2.0 if self.commit == "new" else 1.0), slow

    monkeypatch.setattr(compare.Revision, "run", run)
    pair = (compare.Revision("old", Path(), Path()), compare.Revision("new", Path(), Path()))
    found = compare.measured("list", lambda turn: ["list"], pair, 7)
    assert Counter(ran) == {"old": 8, "new": 8}
    assert set(ran[::2]) == {"old", "new"}
    assert (found["ratio"], found["processors"]) == (2.0, 1.0)
