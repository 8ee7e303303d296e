"""The rules of an alias, as the records find and name them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fusery.registry import Registry, tables
from fusery.registry.errors import AliasGuardedError
from fusery.registry.records.alias_moves import refuse_guarded, rule_target


def rule(task: str, *, guarded: bool) -> tables.AliasRuleRow:
    made = {"created_at": datetime(2026, 12, 3, tzinfo=UTC), "created_by": "anna"}
    return tables.AliasRuleRow(task=task, alias="prod", guarded=guarded, rules={}, **made)


def test_rules_are_named_by_task_and_alias() -> None:
    assert rule_target(rule("course_rec", guarded=True)) == "course_rec#prod"
    assert rule_target(rule("", guarded=True)) == "*#prod"


def test_rules_of_a_task_come_before_those_of_every_task(sqlite_registry: Registry) -> None:
    with sqlite_registry.workspace.database.write() as session:
        session.add_all([rule("", guarded=True), rule("course_rec", guarded=False)])
    with sqlite_registry.workspace.database.read() as session:
        refuse_guarded(session, "course_rec", "prod", hint="")
        refuse_guarded(session, "other", "staging", hint="")
        with pytest.raises(AliasGuardedError):
            refuse_guarded(session, "other", "prod", hint="")
