"""Aliases: who holds a name, who held it when, and back again."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
PROD = "course_rec#prod"


def test_an_alias_moves_and_says_from_where(stocked: Registry) -> None:
    made = stocked.aliases.set("prod", "course_rec@1", reason="first release")
    assert (made["alias"], made["from"], made["to"], made["moved"]) == (PROD, None, FIRST, True)
    moved = stocked.aliases.set("#prod", "course_rec@latest", reason="better")
    assert (moved["from"], moved["to"], moved["by"]) == (FIRST, SECOND, "tester")
    assert stocked.adapters.show(PROD)["name"] == SECOND
    assert stocked.adapters.show("course_rec@2")["aliases"] == ["prod"]
    assert [each.to_dict() for each in stocked.aliases.list()] == [
        {
            "alias": PROD,
            "task": "course_rec",
            "adapter": SECOND,
            "since": moved["at"],
            "by": "tester",
            "reason": "better",
            "withdrawals": [],
        }
    ]
    assert stocked.aliases.list("other") == []


def test_the_json_of_a_move_has_its_moment_to_the_microsecond(stocked: Registry) -> None:
    moved = stocked.aliases.set("prod", "course_rec@1")
    (told,) = stocked.aliases.history(PROD)
    assert datetime.fromisoformat(told["at"]) == told.at == moved.at
    assert datetime.fromisoformat(stocked.aliases.show(PROD)["since"]) == moved.at
    assert datetime.fromisoformat(stocked.upkeep.log()[-1]["at"]) == moved.at
    assert told.from_ is None and told["from"] is None and "withdrawals" not in told
    assert "withdrawals" not in stocked.aliases.remove(PROD)


def test_the_same_move_twice_is_one(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    assert not stocked.aliases.set("prod", "course_rec@1")["moved"]
    assert len(stocked.aliases.history(PROD)) == 1
    assert len(stocked.upkeep.log(reference=PROD)) == 1


def test_every_move_is_in_the_log(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1", reason="first release")
    stocked.aliases.remove(PROD, reason="too slow")
    told = stocked.upkeep.log(reference=PROD)
    assert [event["action"] for event in told] == ["alias.moved"] * 2
    digest = stocked.adapters.show("course_rec@1")["digest"]
    assert told[0]["detail"] == {
        "from": None,
        "to": {"name": FIRST, "digest": digest},
        "reason": "first release",
    }
    assert told[1]["detail"]["to"] is None
    assert stocked.upkeep.audit().ok


def test_taken_away(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.remove(PROD)
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.show(PROD)
    assert stocked.aliases.list() == []
    assert stocked.aliases.show(PROD)["adapter"] is None
    assert [move["to"] for move in stocked.aliases.history(PROD)] == [FIRST, None]


def test_rolled_back(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    with pytest.raises(BadInputError, match="no other adapter"):
        stocked.aliases.roll_back(PROD)
    stocked.aliases.set("prod", "course_rec@2")
    assert stocked.aliases.roll_back(PROD)["to"] == FIRST
    with pytest.raises(BadInputError, match="no other adapter"):
        stocked.aliases.roll_back(PROD)
    assert stocked.aliases.history(PROD)[-1]["reason"] == "rolled back"


def test_a_move_back_is_no_rollback(stocked: Registry) -> None:
    for reference in ("course_rec@2", "course_rec@1", "course_rec@2"):
        stocked.aliases.set("prod", reference)
    assert stocked.aliases.roll_back(PROD)["to"] == FIRST
    assert stocked.aliases.roll_back(PROD)["to"] == SECOND
    with pytest.raises(BadInputError, match="no other adapter"):
        stocked.aliases.roll_back(PROD)


def test_what_it_held_at_a_date(stocked: Registry) -> None:
    """The question of an auditor; the moves are dated back by hand."""
    stocked.aliases.set("prod", "course_rec@1", reason="launch")
    stocked.aliases.set("prod", "course_rec@2")
    days = [datetime(2026, 2, 10, 9, tzinfo=UTC), datetime(2026, 3, 15, 9, tzinfo=UTC)]
    with stocked.workspace.database.write() as session:
        for move, day in zip(session.scalars(select(tables.AliasMove.id)).all(), days, strict=True):
            session.execute(update(tables.AliasMove).where(tables.AliasMove.id == move).values(at=day))
    held = {
        at: stocked.aliases.show(PROD, at=at)["adapter"] for at in ("2026-02-09", "2026-02-10", "2026-03-14")
    }
    assert held == {"2026-02-09": None, "2026-02-10": FIRST, "2026-03-14": FIRST}
    assert stocked.aliases.show(PROD, at="20260315")["adapter"] == SECOND
    assert stocked.aliases.show(PROD, at="2026-03-15T08:59")["adapter"] == FIRST
    assert stocked.aliases.show(PROD, at="2026-03-15T10:30:00+01:00")["adapter"] == SECOND
    asked = stocked.aliases.show(PROD, at="2026-03-01")
    assert (asked["since"], asked["by"], asked["reason"]) == (days[0].isoformat(), "tester", "launch")


@pytest.mark.parametrize("name", ["latest", "v3", "12", "", "Ä b", "../x"])
def test_names_that_are_none(name: str, stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.aliases.set(name, "course_rec@1")
    assert stocked.aliases.list() == []


def test_which_it_can_be_given(stocked: Registry) -> None:
    assert stocked.aliases.names_for("course_rec@2") == []
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set("beta", "course_rec@1")
    stocked.aliases.remove("course_rec#beta")
    stocked.aliases.set_rules("prod", {}, guarded=True)
    stocked.aliases.set_rules("course_rec#canary", {}, guarded=True)
    stocked.aliases.set_rules("other#staging", {}, guarded=True)
    expected = [f"course_rec#{name}" for name in ("beta", "canary", "prod")]
    assert stocked.aliases.names_for(stocked.adapters.show("course_rec@2")) == expected
    with pytest.raises(UnknownReferenceError):
        stocked.aliases.names_for("course_rec@9")


def test_what_there_is_not(stocked: Registry) -> None:
    for ask in (
        stocked.aliases.show,
        stocked.aliases.history,
        stocked.aliases.remove,
        stocked.aliases.roll_back,
    ):
        with pytest.raises(UnknownReferenceError, match="no alias"):
            ask(PROD)
        with pytest.raises(BadInputError, match="not an alias"):
            ask("course_rec@1")
    with pytest.raises(UnknownReferenceError):
        stocked.aliases.set("prod", "course_rec@9")
    with pytest.raises(UnknownReferenceError):
        stocked.upkeep.log(reference=PROD)
    with pytest.raises(BadInputError):
        stocked.aliases.show(PROD, at="last week")


def test_a_yanked_adapter_gets_no_alias(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set("prod", "course_rec@2")
    found = stocked.adapters.yank("course_rec@1", reason="trained on the test set")
    assert found["aliases"] == []
    with pytest.raises(BadInputError, match="trained on the test set"):
        stocked.aliases.set("canary", "course_rec@1")
    with pytest.raises(BadInputError, match="yanked"):
        stocked.aliases.roll_back(PROD)
    assert stocked.aliases.show(PROD)["adapter"] == SECOND


def test_moves_at_once_leave_one_history(stocked: Registry) -> None:
    """Each move begins where the one before ended, whoever made it."""

    def move(reference: str) -> None:
        for _ in range(8):
            stocked.aliases.set("prod", reference)

    threads = [threading.Thread(target=move, args=(f"course_rec@{version}",)) for version in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moves = stocked.aliases.history(PROD)
    assert [move["from"] for move in moves] == [None, *(move["to"] for move in moves[:-1])]
    assert stocked.aliases.show(PROD)["adapter"] == moves[-1]["to"]
    assert stocked.upkeep.audit().ok


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=st.lists(st.sampled_from(["course_rec@1", "course_rec@2", "remove"]), max_size=7))
def test_any_moves_are_told_as_they_were(moves: list[str], stocked: Registry) -> None:
    name = f"a{uuid.uuid4().hex}"  # the registry outlives an example
    held: list[str | None] = []
    for move in moves:
        if move == "remove":
            if not held:
                continue
            stocked.aliases.remove(f"course_rec#{name}")
            now = None
        else:
            now = stocked.aliases.set(name, move)["to"]
        if not held or held[-1] != now:
            held.append(now)
    if held:
        assert [move["to"] for move in stocked.aliases.history(f"course_rec#{name}")] == held
        assert stocked.aliases.show(f"course_rec#{name}")["adapter"] == held[-1]


def test_an_alias_before_its_adapter_is_told_the_order(stocked: Registry) -> None:
    with pytest.raises(BadInputError, match="not an alias") as caught:
        stocked.aliases.set("course_rec@2", "course_rec#prod")
    assert caught.value.hint == "the adapter comes first: fusery alias set course_rec@2 prod"
