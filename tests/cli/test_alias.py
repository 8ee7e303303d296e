"""`fusery alias`, `yank` and `events` as a user meets them."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_a_release_and_its_rollback(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        ("alias set course_rec@1 latest", "bad_input"),
        ("alias set course_rec@9 prod", "unknown_reference"),
        ("alias show course_rec#prod", "unknown_reference"),
        ("alias rollback course_rec@1", "bad_input"),
    )
    assert stocked("alias", "list").code == 0
    assert f"course_rec#prod holds {FIRST}" in stocked("alias", "set", "course_rec@1", "prod").out
    moved = stocked("alias", "set", "course_rec@2", "prod", "--reason", "better", "--json").json
    assert (moved["moved"], moved["reason"], moved["to"]) == (True, "better", SECOND)
    assert stocked("alias", "show", "course_rec#prod", "-q").out.strip() == SECOND
    assert SECOND in stocked("alias", "rollback", "course_rec#prod").out
    assert "rolled back" in stocked("alias", "history", "course_rec#prod").out
    assert stocked("alias", "history", "course_rec#prod", "-q").out.split() == [FIRST, SECOND, FIRST]
    assert "prod" in stocked("list").out
    assert stocked("alias", "remove", "course_rec#prod", "--json").json["to"] is None
    assert stocked("alias", "show", "course_rec#prod", "--at", "2020-01-01", "--json").json["adapter"] is None
    for words in ("show course_rec#pord", "alias show course_rec#pord", "events --ref course_rec#pord"):
        stocked("alias", "set", "course_rec@1", "prod")
        error = stocked(*words.split(), "--json").json["error"]
        assert (error["code"], "course_rec#prod" in error["hint"]) == ("unknown_reference", True)
        stocked("alias", "remove", "course_rec#prod")
    assert "fusery alias list" in stocked("show", "course_rec#pord").err


def test_several_adapters_are_yanked_at_once(stocked: Fusery) -> None:
    both = ("course_rec@1", "course_rec@2")
    assert stocked("yank", *both, "course_rec@9", "--reason", "x").code == 2
    assert stocked("list", "--where", "yanked", "--json").json == []
    found = stocked("yank", *both, "--reason", "wrong licence", "--json").json
    assert [(each["name"], each["changed"], each["reason"]) for each in found] == [
        (FIRST, True, "wrong licence"),
        (SECOND, True, "wrong licence"),
    ]
    assert stocked("yank", *both, "--undo", "-q").out.split() == [FIRST, SECOND]


def test_yank_and_events(stocked: Fusery) -> None:
    require_refusals(stocked, ("yank course_rec@1", "--reason"), ("yank --reason x", "usage"))
    stocked("alias", "set", "course_rec@1", "prod")
    moment = stocked("alias", "show", "course_rec#prod", "--json").json["since"]
    out = stocked("yank", "course_rec@1", "--reason", "wrong\nlicence").out
    assert "course_rec#prod" in out and "wrong\\nlicence" in out
    then = stocked("alias", "show", "course_rec#prod", "--at", moment, "--json").json
    assert (then["adapter"], then["yanked"], len(then["digest"])) == (FIRST, False, 64)
    assert "it is yanked" in stocked("alias", "show", "course_rec#prod").out
    assert stocked("fuse", "course_rec@1").code == 2
    assert stocked("yank", "course_rec@1", "--undo").code == 0
    shown = stocked("events").out
    for word in ("registry.made", "adapter.yanked", "alias.moved", "tester"):
        assert word in shown
    [last] = stocked("events", "--limit", "1", "--json").json
    assert last["action"] == "adapter.unyanked"
    assert len(stocked("events", "--ref", "course_rec#prod", "-q").out.split()) == 1
