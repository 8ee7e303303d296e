"""`fusery alias`, `yank` and `events` as a user meets them."""

from __future__ import annotations

from fixture_types import Fusery


def test_a_release_and_its_rollback(stocked: Fusery) -> None:
    assert stocked("alias", "list").code == 0
    assert "course_rec#prod holds course_rec_v1" in stocked("alias", "set", "course_rec@1", "prod").out
    moved = stocked("alias", "set", "course_rec@2", "prod", "--reason", "better", "--json").json
    assert (moved["moved"], moved["reason"]) == (True, "better")
    assert stocked("alias", "show", "course_rec#prod", "-q").out.strip() == moved["to"]
    back = stocked("alias", "rollback", "course_rec#prod")
    assert "before that course_rec_v2" in back.out
    table = stocked("alias", "history", "course_rec#prod").out
    assert "rolled back" in table
    assert stocked("alias", "history", "course_rec#prod", "-q").out.split() == [
        moved["from"],
        moved["to"],
        moved["from"],
    ]
    assert "prod" in stocked("list").out
    assert "holds nothing any more" in stocked("alias", "remove", "course_rec#prod").out
    assert "held nothing" in stocked("alias", "show", "course_rec#prod", "--at", "2020-01-01").out


def test_what_is_refused(stocked: Fusery) -> None:
    for words in (
        ("set", "course_rec@1", "latest"),
        ("set", "course_rec@9", "prod"),
        ("show", "course_rec#prod"),
        ("rollback", "course_rec@1"),
    ):
        ran = stocked("alias", *words)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("Error: ")
        assert "Hint: " in ran.err


def test_several_adapters_are_yanked_at_once(stocked: Fusery) -> None:
    both = ("course_rec@1", "course_rec@2")
    assert stocked("yank", *both, "course_rec@9", "--reason", "x").code == 2
    assert stocked("list", "--where", "yanked", "--json").json == []
    found = stocked("yank", *both, "--reason", "wrong licence", "--json").json
    assert [(each["name"], each["changed"], each["reason"]) for each in found] == [
        ("course_rec_v1_20260115", True, "wrong licence"),
        ("course_rec_v2_20260201", True, "wrong licence"),
    ]
    assert stocked("yank", *both, "--undo", "-q").out.split() == [each["name"] for each in found]
    assert stocked("yank", "--reason", "x").code == 2


def test_yank_and_events(stocked: Fusery) -> None:
    assert stocked("yank", "course_rec@1").code == 2
    stocked("alias", "set", "course_rec@1", "prod")
    out = stocked("yank", "course_rec@1", "--reason", "wrong\nlicence").out
    assert "it is held by course_rec#prod" in out
    assert "wrong\\nlicence" in out
    assert stocked("fuse", "course_rec@1").code == 2
    assert "may be used again" in stocked("yank", "course_rec@1", "--undo").out
    shown = stocked("events").out
    for word in ("registry.made", "adapter.yanked", "alias.moved", "tester"):
        assert word in shown
    assert [event["action"] for event in stocked("events", "--limit", "1", "--json").json] == [
        "adapter.unyanked"
    ]
    assert len(stocked("events", "--ref", "course_rec#prod", "-q").out.split()) == 1
