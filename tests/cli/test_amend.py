"""`fusery amend`: each change is printed, amended values are marked, and earlier ones can be looked up."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_each_change_is_printed(stocked: Fusery) -> None:
    done = stocked("amend", "course_rec@1", "--val-loss", "0.061", "--tag", "team=search", "--reason", "typo")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{ONE}: val_loss 0.61 -> 0.061 (typo)",
        f"{ONE}: tag.team nothing -> search (typo)",
    ]
    assert stocked("amend", "course_rec@1", "--val-loss", "0.061", "--json").json["changed"] is False
    assert stocked("amend", "course_rec@1", "--note", "x", "-q").out.strip() == ONE
    cleared = stocked("amend", ONE, "--clear", "val_loss", "--reason", "wrong split", "--json").json
    assert (cleared["name"], cleared["changed"]) == (ONE, True)
    change = cleared["amendments"][-1]
    assert change.keys() == {"field", "from", "to", "reason", "at", "since", "by"}
    assert (change["field"], change["from"], change["to"]) == ("val_loss", 0.061, None)
    assert change in stocked("show", ONE, "--json").json["amendments"]
    long = stocked("amend", ONE, "--note", "a\x1b[31m" + "b" * 5000, "--reason", "y")
    assert (long.code, len(long.out) < 300, "\x1b" in long.out) == (0, True, False)


def test_tables_mark_amended_values_and_earlier_ones_can_be_looked_up(stocked: Fusery) -> None:
    words = (("list",), ("history", "course_rec"), ("compare", ONE, TWO), ("diff", ONE, TWO))
    assert all("*" not in stocked(*each).out for each in words)
    at = stocked("events", "--json").json[-1]["at"]
    stocked("amend", ONE, "--val-loss", "0.061", "--reason", "typo")
    for each in words:
        ran = stocked(*each)
        assert ("0.061*" in ran.out, "0.42*" in ran.out, "* was amended" in ran.err) == (True, False, True)
    shown = stocked("show", ONE).out
    assert "0.061*" in shown and "by tester: val_loss 0.61 -> 0.061 (typo)" in shown
    then = stocked("show", ONE, "--at", at)
    assert (then.code, "0.61" in then.out, "0.061" in then.out, at in then.out) == (0, True, False, True)
    assert stocked("show", ONE, "--at", "2020-01-01").code == 2


def test_refusals_change_nothing(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        (f"amend {ONE} --val-loss 0.1", "val_loss"),
        (f"amend {ONE}", "bad_input"),
        (f"amend {ONE} --clear digest --reason x", "digest"),
        (f"amend {ONE} --val-loss nan --reason x", "finite"),
        ("amend course_rec@9 --note x", "unknown_reference"),
        (f"amend {ONE} --clear tag.nope --note y", "'nope'"),
    )
    assert stocked("show", ONE, "--json").json["amendments"] == []
    stocked("amend", ONE, "--tag", "team=search", "--tag", "stage=trial")
    require_refusals(stocked, (f"amend {ONE} --clear tag.teem --clear tag.stage", "stage, team"))
    assert stocked("amend", ONE, "--clear", "tag.stage").code == 0
    assert stocked("show", ONE, "--json").json["tags"] == {"team": "search"}
