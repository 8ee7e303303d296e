"""Aliases: which adapter they hold, which they held before, and rollbacks."""

from __future__ import annotations

from datetime import datetime

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
PROD = "course_rec#prod"


def test_an_alias_moves_and_records_the_move(stocked: Registry) -> None:
    made = stocked.aliases.set("prod", "course_rec@1", reason="first release")
    assert (made["alias"], made["from"], made["to"], made["moved"]) == (PROD, None, FIRST, True)
    assert not stocked.aliases.set("prod", "course_rec@1")["moved"]
    (told,) = stocked.aliases.history(PROD)
    assert told.from_ is None and "withdrawals" not in told
    assert datetime.fromisoformat(told["at"]) == told.at == made.at
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
    removed = stocked.aliases.remove(PROD, reason="too slow")
    assert "withdrawals" not in removed
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.show(PROD)
    assert stocked.aliases.list() == []
    assert stocked.aliases.show(PROD)["adapter"] is None
    assert [move["to"] for move in stocked.aliases.history(PROD)] == [FIRST, SECOND, None]
    log = stocked.upkeep.log(reference=PROD)
    assert [event["action"] for event in log] == ["alias.moved"] * 3
    digest = stocked.adapters.show("course_rec@1")["digest"]
    first = {"from": None, "to": {"name": FIRST, "digest": digest}, "reason": "first release"}
    assert (log[0]["detail"], log[-1]["detail"]["to"]) == (first, None)
    assert stocked.upkeep.audit().ok


def require_no_rollback(registry: Registry, *named: str, hint: str) -> None:
    with pytest.raises(BadInputError) as caught:
        registry.aliases.roll_back(PROD)
    assert registry.aliases.rollback_target(PROD) is None
    message = caught.value.message
    assert [name for name in (FIRST, SECOND, "yanked", "rollback") if name in message] == [*named], message
    assert hint in str(caught.value.hint)


def test_a_rollback_goes_to_the_adapter_held_before(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    require_no_rollback(stocked, hint="promote REF prod")
    stocked.aliases.set("prod", "course_rec@2")
    assert stocked.aliases.rollback_target(PROD) == FIRST
    assert stocked.aliases.roll_back(PROD)["to"] == FIRST
    require_no_rollback(stocked, SECOND, "rollback", hint=f"promote {SECOND} prod")
    stocked.adapters.yank("course_rec@2", reason="bad")
    require_no_rollback(stocked, SECOND, "yanked", hint="alias remove course_rec#prod")
    stocked.adapters.unyank("course_rec@2")
    stocked.aliases.set("prod", "course_rec@2")
    stocked.adapters.yank("course_rec@1", reason="bad")
    require_no_rollback(stocked, FIRST, "yanked", hint="promote REF prod")
    stocked.adapters.unyank("course_rec@1")
    assert stocked.aliases.roll_back(PROD)["to"] == FIRST
    assert stocked.aliases.history(PROD)[-1]["reason"] == "rolled back"
    # A move back is no rollback.
    for reference in ("course_rec@2", "course_rec@1", "course_rec@2"):
        stocked.aliases.set("beta", reference)
    for expected in (FIRST, SECOND):
        assert stocked.aliases.roll_back("course_rec#beta")["to"] == expected
    with pytest.raises(BadInputError):
        stocked.aliases.roll_back("course_rec#beta")


def test_names_that_an_adapter_can_be_given(stocked: Registry) -> None:
    assert stocked.aliases.names_for("course_rec@2") == []
    stocked.aliases.set("beta", "course_rec@1")
    for alias in ("prod", "other#staging"):
        stocked.aliases.set_rules(alias, {}, guarded=True)
    assert stocked.aliases.names_for("course_rec@2") == ["course_rec#beta", "course_rec#prod"]


def test_unknown_and_invalid_references_are_refused(stocked: Registry) -> None:
    aliases = stocked.aliases
    for ask in (aliases.show, aliases.history, aliases.remove, aliases.roll_back):
        with pytest.raises(UnknownReferenceError):
            ask(PROD)
        with pytest.raises(BadInputError):
            ask("course_rec@1")
    with pytest.raises(UnknownReferenceError):
        aliases.set("prod", "course_rec@9")
    with pytest.raises(UnknownReferenceError):
        stocked.upkeep.log(reference=PROD)
    for at in ("last week", "", "now", "0001-01-01T00:00+14:00", "2026-03-01T25:00"):
        with pytest.raises(BadInputError):
            aliases.show(PROD, at=at)
    for name in ("latest", "v3", "12", "", "Ä b", "../x", "course_rec@2"):
        with pytest.raises(BadInputError):
            aliases.set(name, "course_rec@1")
    assert aliases.list() == []


def test_a_yanked_adapter_gets_no_alias(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set("prod", "course_rec@2")
    assert stocked.adapters.yank("course_rec@1", reason="trained on the test set")["aliases"] == []
    with pytest.raises(BadInputError):
        stocked.aliases.set("canary", "course_rec@1")
    with pytest.raises(BadInputError):
        stocked.aliases.roll_back(PROD)
    assert stocked.aliases.show(PROD)["adapter"] == SECOND
    stocked.adapters.yank("course_rec@2", reason="as well")
    assert [each.summary for alias in stocked.aliases.list() for each in alias.withdrawals] == [
        "yanked: as well"
    ]
