"""Aliases, their moves and the log agree, or an audit names what does not; an edit shows though a later write sealed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from fusery.registry import Registry
from fusery.registry.database import events
from fusery.registry.upkeep.history import check_alias_moves
from fusery.registry.upkeep.records import SealLog

# What depends on PostgreSQL itself is tested in `registry/database`.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
PROD = "course_rec#prod"
ADDED = (
    "INSERT INTO alias_move (id, alias_id, from_adapter_id, to_adapter_id, reason, at, by) "
    "SELECT 77, alias_id, 1, 2, '', at, 'eve' FROM alias_move WHERE id = 1"
)


@pytest.fixture
def moved(stocked: Registry) -> Registry:
    """A registry in which `prod` went from the first version to the second, back, and away."""
    stocked.aliases.set("prod", "course_rec@1", reason="first")
    stocked.aliases.set("prod", "course_rec@2")
    stocked.aliases.roll_back(PROD)
    stocked.aliases.set("staging", "course_rec@2", reason="see https://user:password@example.org/run")
    stocked.aliases.remove("course_rec#staging")
    return stocked


def edit(registry: Registry, *statements: str) -> None:
    with registry.workspace.database.schema_change() as connection:
        for statement in statements:
            connection.execute(text(statement))


def found(registry: Registry) -> list[str]:
    with registry.workspace.database.read() as session:
        return [f"{each.subject}: {each.message}" for each in check_alias_moves(session, SealLog(session))]


def test_honest_moves_agree(moved: Registry) -> None:
    assert found(moved) == []
    assert moved.upkeep.audit().ok


@on_sqlite
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE alias SET adapter_id = 2 WHERE name = 'prod'",
            "alias and its last move have different adapters",
        ),
        ("UPDATE alias_move SET reason = 'x' WHERE id = 1", "no log entry for the move to"),
        ("UPDATE alias_move SET to_adapter_id = 1 WHERE id = 2", "contradicts the previous move"),
        ("DELETE FROM alias_move WHERE id = 1", "the log has an unrecorded move"),
        (ADDED, "no log entry for the move to"),
    ],
)
def test_an_edit_is_named(moved: Registry, statement: str, said: str) -> None:
    edit(moved, statement)
    assert any(said in each for each in found(moved))
    assert {problem.code for problem in moved.upkeep.audit().problems} >= {"alias_unexplained"}


@on_sqlite
def test_an_entry_without_a_move_is_named(moved: Registry) -> None:
    with moved.workspace.database.write() as session:
        detail = {"from": {"name": FIRST}, "to": {"name": SECOND}, "reason": ""}
        entry = events.record(
            session, action="alias.moved", kind="alias", subject=PROD, detail=detail, actor="eve"
        )
    assert found(moved) == [f"alias {PROD}: the log has an unrecorded move to {SECOND} at {entry.at}"]


ENDINGS: dict[str, tuple[str, Callable[[Registry], Any]]] = {
    "yank": ("UPDATE yank SET reason = 'fine'", lambda registry: registry.adapters.unyank("course_rec@1")),
    "approval": (
        "UPDATE approval SET adapter_id = 2",
        lambda registry: registry.acting("ann", authenticated=False).aliases.withdraw_approval(
            "course_rec@2", "prod"
        ),
    ),
    "evaluation": (
        "UPDATE evaluation SET value = 0.9",
        lambda registry: registry.evaluations.withdraw("course_rec@1", "acc", reason="wrong"),
    ),
}


@on_sqlite
@pytest.mark.parametrize("kind", ENDINGS)
def test_an_edit_that_a_later_write_sealed_is_named(stocked: Registry, kind: str) -> None:
    stocked.adapters.yank("course_rec@1", reason="leaks names")
    stocked.acting("ann", authenticated=False).aliases.approve("course_rec@2", "prod")
    stocked.evaluations.record("course_rec@1", {"acc": 0.5})
    assert stocked.upkeep.audit().ok
    statement, end = ENDINGS[kind]
    edit(stocked, statement.replace("adapter_id = 2", "note = 'of another'"))
    end(stocked)
    problems = stocked.upkeep.audit().problems
    assert [problem.code for problem in problems] == ["record_rewritten"]
    assert problems[0].subject.startswith(kind)
