"""`fusery diff --weights`, `compare` and `list --where` as people and scripts see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

KEYS = {
    "module", "norm_a", "norm_b", "cosine", "relative_change", "effective_rank_a", "effective_rank_b"
}  # fmt: skip
BOTH = ("course_rec@1", "course_rec@2")
FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_diff(stocked: Fusery) -> None:
    plain = stocked("diff", *BOTH, "--json").json
    assert plain.keys() == {"a", "b", "changed", "amended", "withdrawals"}
    assert stocked("diff", *BOTH, "-q").out.splitlines()[:1] == ["version"]
    ran = stocked("diff", *BOTH, "--weights", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = ran.json
    assert found.keys() >= {"a", "b", "changed", "modules", "overall"}
    assert found["overall"].keys() >= KEYS - {"module"}
    for module in found["modules"]:
        assert module.keys() >= KEYS
        assert module["angles_in"] == sorted(module["angles_in"])
        assert all(0 <= angle <= 90 for angle in module["angles_in"] + module["angles_out"])
    shown = stocked("diff", *BOTH, "--weights").out
    assert "val_loss" in shown
    changes = [float(line.split()[4]) for line in shown.splitlines() if line.startswith("model.layers.")]
    assert len(changes) == 14 and changes == sorted(changes, reverse=True)
    same = stocked("diff", BOTH[0], BOTH[0], "--weights").out
    assert "Nothing differs." in same and "relative change  0" in same


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    both = " ".join(BOTH)
    assert stocked("register", "first", "--base", "tiny", "--task", "alone").code == 0
    require_refusals(
        stocked,
        (f"diff {both} --plot x.png", "--weights"),
        (f"diff {both} --weights --force", "--force goes with --plot"),
        (f"diff {both} --weights --plot x.gif", ".svg"),
        ("compare course_rec@1", "two different adapters"),
        (f"compare {both} --force", "--force goes with --plot"),
        (f"compare {both} --plot x.png", "no training curve"),
        ("compare", "usage"),
        ("compare course_rek", "did you mean"),
        ("compare alone", "fusery show REF"),
        (("list", "--where", ""), "bad_expression"),
        ("list --limit 0", "--limit"),
        ("list --offset -1", "--offset"),
        ("list --sort val_loss,nothing", "'nothing'"),
    )
    assert not list(Path.cwd().glob("x.*"))


def test_compare(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stocked("compare", "course_rec", "--json").json
    assert whole.keys() == {
        "adapters", "differs", "same", "amended", "findings", "curves", "withdrawals", "plot"
    }  # fmt: skip
    assert whole["adapters"] == [FIRST, SECOND]
    assert whole["differs"]["val_loss"] == [0.61, 0.42]
    assert whole == stocked("compare", *BOTH, "--json").json
    assert stocked("compare", "Course_Rec", "course_rec@1", "--json").json["adapters"] == [FIRST, SECOND]
    assert stocked("compare", *BOTH, "-q").out.splitlines() == list(whole["differs"])
    shown = stocked("compare", *BOTH).out
    assert all(text in shown for text in (FIRST, SECOND, "0.61"))
    monkeypatch.setattr("fusery.registry.catalog.compare.MOST", 1)
    require_refusals(stocked, ("compare course_rec", "TASK@1 TASK@2"))


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
        "Hint: did you mean val_loss?",
    ]
    error = stocked("list", "--where", "rank >= 8 and val_los < 1", "--json").json["error"]
    assert (error["code"], error["position"]) == ("bad_expression", 14)
    ran = stocked("list", "--where", "note = \x1b[31m\nred" + " x" * 400)
    assert (ran.code, "\x1b" in ran.err) == (2, False)
    assert all(len(line) < 300 for line in ran.err.splitlines())


def test_history_marks_yanked_adapters_and_aliases(stocked: Fusery) -> None:
    stocked("yank", "course_rec@1", "--reason", "leaks")
    stocked("alias", "set", "course_rec@2", "prod")
    head, _, first, second = stocked("history", "course_rec").out.splitlines()[:4]
    assert head.split()[:4] == ["name", "version", "aliases", "state"]
    assert first.split()[1:4] == ["1", "-", "yanked"]
    assert second.split()[1:3] == ["2", "#prod"]
