"""`fusery diff` and `list --where` as people and scripts see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

BOTH = ("course_rec@1", "course_rec@2")
FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    both = " ".join(BOTH)
    assert stocked("register", "first", "--base", "tiny", "--task", "alone").code == 0
    require_refusals(
        stocked,
        (f"diff {both} --weights --force", "--force goes with --plot"),
        (f"diff {both} --weights --plot x.gif", ".svg"),
        ("diff course_rec@1", "two different adapters"),
        ("diff course_rec@1 --weights", "--weights compares two adapters"),
        (f"diff {both} --force", "--force goes with --plot"),
        (f"diff {both} --plot x.png", "no training curve"),
        ("diff", "usage"),
        ("diff course_rek", "did you mean"),
        ("diff alone", "fusery show REF"),
        (("list", "--where", ""), "bad_expression"),
        ("list --limit 0", "--limit"),
        ("list --offset -1", "--offset"),
        ("list --sort val_loss,nothing", "'nothing'"),
    )
    assert not list(Path.cwd().glob("x.*"))


def test_compare(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stocked("diff", "course_rec", "--json").json
    assert whole.keys() == {
        "adapters", "differs", "same", "amended", "findings", "curves", "withdrawals", "plot"
    }  # fmt: skip
    assert whole["adapters"] == [FIRST, SECOND]
    assert whole["differs"]["val_loss"] == [0.61, 0.42]
    assert stocked("diff", "course_rec", "-q").out.splitlines() == list(whole["differs"])
    assert whole == stocked("diff", *BOTH, "--json").json
    assert stocked("diff", "Course_Rec", "course_rec@1", "--json").json["adapters"] == [FIRST, SECOND]
    for words in (BOTH, ["course_rec"]):
        assert all(text in stocked("diff", *words).out for text in (FIRST, SECOND, "0.61"))
    monkeypatch.setattr("fusery.registry.catalog.compare.MOST", 1)
    require_refusals(stocked, ("diff course_rec", "TASK@1 TASK@2"))


def test_list_filters_and_pages(stocked: Fusery) -> None:
    assert stocked("list", "--where", "val_loss < 0.5", "-q").out == f"{SECOND}\n"
    assert stocked("list", "--where", "val_loss < 1 and rank >= 8", "-q").out == f"{FIRST}\n"
    nothing = stocked("list", "--where", "val_loss < 0", "--json")
    assert (nothing.code, nothing.json) == (0, [])
    assert "Nothing" in stocked("list", "--where", "val_loss < 0").err
    words = ("list", "--sort", "method,val_loss", "--limit", "1", "-q", "--offset")
    assert [stocked(*words, str(at)).out.strip() for at in range(3)] == [SECOND, FIRST, ""]


def test_the_place_in_a_wrong_expression_is_shown(stocked: Fusery) -> None:
    ran = stocked("list", "--where", "rank >= 8 and val_los < 1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[1:] == [
        "  rank >= 8 and val_los < 1",
        "                ^",
        "Hint: did you mean val_loss or alias?",
    ]
    error = stocked("list", "--where", "rank >= 8 and val_los < 1", "--json").json["error"]
    assert (error["code"], error["position"]) == ("bad_expression", 14)
    ran = stocked("list", "--where", "note = \x1b[31m\nred" + " x" * 400)
    assert (ran.code, "\x1b" in ran.err) == (2, False)
    assert all(len(line) < 300 for line in ran.err.splitlines())
