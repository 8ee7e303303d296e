"""`fusery edit`: each change is printed."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_each_change_is_printed(stocked: Fusery) -> None:
    done = stocked("edit", "course_rec@1", "--val-loss", "0.061", "--tag", "team=search", "--reason", "typo")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{ONE}: val_loss 0.61 -> 0.061 (typo)",
        f"{ONE}: tag.team nothing -> search (typo)",
    ]
    assert stocked("edit", "course_rec@1", "--val-loss", "0.061", "--json").json["changed"] is False
    assert stocked("edit", "course_rec@1", "--note", "x", "-q").out.strip() == ONE
    cleared = stocked("edit", ONE, "--clear", "val_loss", "--reason", "wrong split", "--json").json
    assert (cleared["name"], cleared["changed"]) == (ONE, True)
    change = cleared["amendments"][-1]
    assert change.keys() == {"field", "from", "to", "reason", "at", "since", "by"}
    assert (change["field"], change["from"], change["to"]) == ("val_loss", 0.061, None)
    assert change in stocked("show", ONE, "--json").json["amendments"]
    long = stocked("edit", ONE, "--note", "a\x1b[31m" + "b" * 5000, "--reason", "y")
    assert (long.code, len(long.out) < 300, "\x1b" in long.out) == (0, True, False)


def test_refusals_change_nothing(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        (f"edit {ONE} --val-loss 0.1", "val_loss"),
        (f"edit {ONE}", "bad_input"),
        (f"edit {ONE} --clear digest --reason x", "digest"),
        (f"edit {ONE} --val-loss nan --reason x", "finite"),
        ("edit course_rec@9 --note x", "unknown_reference"),
        (f"edit {ONE} --clear tag.nope --note y", "'nope'"),
    )
    assert stocked("show", ONE, "--json").json["amendments"] == []
    stocked("edit", ONE, "--tag", "team=search", "--tag", "stage=trial")
    require_refusals(stocked, (f"edit {ONE} --clear tag.teem --clear tag.stage", "stage, team"))
    assert stocked("edit", ONE, "--clear", "tag.stage").code == 0
    assert stocked("show", ONE, "--json").json["tags"] == {"team": "search"}
