"""What waits for approval: the newest version of a task, where an alias asks for more approvals than it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import person
from ..record import Record, described
from ..records.task import Task
from ..records.withdrawal import own

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Record):
    """A version that an alias could hold once enough people approve, as far as approvals go."""

    adapter: str = described("name of the newest version of its task")
    alias: str = described("the alias that needs approvals, `TASK#NAME`")
    version: int | None = described("the adapter that the alias holds now; None without one")
    wanted: int = described("number of required approvals")
    approvals: tuple[str, ...] = described("who approves, and counts")


@dataclass(frozen=True, slots=True)
class _Asked:
    number: int
    authenticated: bool


def waiting_for_approval(workspace: Workspace, tasks: Sequence[Task]) -> list[Waiting]:
    """Return which of the newest versions wait for approval, by task and alias; withdrawn ones wait for nothing.

    It takes two statements, however many tasks there are.
    """
    newest = {task.task: task for task in tasks if own(task.withdrawals) is None}
    with workspace.database.read() as session:
        asked = _asked(session, newest)
        given = _given(session, [newest[name] for name in {task for task, _ in asked}])
    found = []
    for (name, alias), wanted in sorted(asked.items()):
        task = newest[name]
        held = {each.alias: each.version for each in task.aliases}.get(alias)
        if held == task.version:
            continue
        who = tuple(
            sorted(
                by
                for by, authenticated in given[task.adapter, alias].values()
                if authenticated or not wanted.authenticated
            )
        )
        if len(who) < wanted.number:
            found.append(
                Waiting(
                    adapter=task.adapter,
                    alias=f"{name}#{alias}",
                    version=held,
                    wanted=wanted.number,
                    approvals=who,
                )
            )
    return found


def _asked(session: Session, tasks: Mapping[str, Task]) -> dict[tuple[str, str], _Asked]:
    """Return how many approvals are asked for, by task and alias.

    Rules of one task count before those of all (`task` is empty), which say nothing of a task that has no such alias.
    """
    rule = tables.AliasRule
    rows = session.scalars(select(rule).where(rule.task.in_(["", *tasks])).order_by(rule.task))
    found = {}
    for row in rows:
        having = [
            name for name, task in tasks.items() if any(each.alias == row.alias for each in task.aliases)
        ]
        for name in [row.task] if row.task else having:
            found[name, row.alias] = row.rules
    return {key: wanted for key, rules in found.items() if (wanted := _wanted(rules)) is not None}


def _wanted(rules: object) -> _Asked | None:
    number = rules.get("approvals") if isinstance(rules, dict) else None
    if not isinstance(number, int) or number < 1:
        return None
    assert isinstance(rules, dict)
    return _Asked(number, bool(rules.get("authenticated")))


def _given(
    session: Session, tasks: Sequence[Task]
) -> defaultdict[tuple[str, str], dict[str, tuple[str, bool]]]:
    """Return who approves, each person once, by adapter and alias, without authors."""
    approval, adapter = tables.Approval, tables.Adapter
    query = (
        select(adapter.name, adapter.created_by, approval.alias, approval.by, approval.authenticated)
        .join(approval, approval.adapter_id == adapter.id)
        .where(adapter.name.in_([task.adapter for task in tasks]), approval.withdrawn_at.is_(None))
        .order_by(approval.id)
    )
    found: defaultdict[tuple[str, str], dict[str, tuple[str, bool]]] = defaultdict(dict)
    for name, author, alias, by, authenticated in session.execute(query) if tasks else ():
        who, known = person(by), found[name, alias]
        if who != person(author):
            known[who] = (by, bool(authenticated) or known.get(who, ("", False))[1])
    return found
