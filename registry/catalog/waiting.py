"""What waits for approval: the newest version of a task, where an alias asks for more approvals than it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import person
from ..record import Record, described
from ..records.adapter import own
from ..records.references import latest_version
from ..records.release import HeldVersion, Task
from ..records.withdrawals import of_adapters
from ..workspace.workspace import Workspace


class Waiting(Record):
    """A version that an alias could hold once enough people approve, as far as approvals go."""

    adapter: str = described("name of the newest version of its task")
    alias: str = described("the alias that needs approvals, `TASK#NAME`")
    version: int | None = described("the adapter that the alias holds now; None without one")
    wanted: int = described("number of required approvals")
    approvals: tuple[str, ...] = described("who approves, and counts")


def waiting_for_approval(workspace: Workspace, tasks: Sequence[Task]) -> list[Waiting]:
    """Return which of the newest versions wait for approval, by task and alias; withdrawn ones wait for nothing."""
    newest = {task.task: task for task in tasks if own(task.withdrawals) is None}
    with workspace.database.read() as session:
        asked = _asked(session, newest)
        approval, adapter = tables.ApprovalRow, tables.AdapterRow
        names = [newest[name].adapter for name in {task for task, _ in asked}]
        query = (
            select(adapter.name, adapter.created_by, approval.alias, approval.by, approval.authenticated)
            .join(approval, approval.adapter_id == adapter.id)
            .where(adapter.name.in_(names), approval.withdrawn_at.is_(None))
            .order_by(approval.id)
        )
        given = defaultdict[tuple[str, str], dict[str, tuple[str, bool]]](dict)
        for name, author, alias, by, authenticated in session.execute(query) if names else ():
            approver, recorded = person(by), given[name, alias]
            if approver != person(author):
                recorded[approver] = (by, bool(authenticated) or recorded.get(approver, ("", False))[1])
    waiting = []
    for (name, alias), (wanted, with_token) in sorted(asked.items()):
        task = newest[name]
        held = {held_alias.alias: held_alias.version for held_alias in task.aliases}.get(alias)
        if held == task.version:
            continue
        approvals = given[task.adapter, alias].values()
        who = tuple(sorted(by for by, authenticated in approvals if authenticated or not with_token))
        if len(who) < wanted:
            full, adapter_name = f"{name}#{alias}", task.adapter
            waiting += [Waiting(adapter=adapter_name, alias=full, version=held, wanted=wanted, approvals=who)]
    return waiting


def _asked(session: Session, tasks: Mapping[str, Task]) -> dict[tuple[str, str], tuple[int, bool]]:
    """Return how many approvals are asked for, and whether only those with a token count, by task and alias."""
    rule = tables.AliasRuleRow
    rows = session.scalars(select(rule).where(rule.task.in_(["", *tasks])).order_by(rule.task))
    rules_by_alias = {}
    for row in rows:
        having = [
            name for name, task in tasks.items() if row.alias in {alias.alias for alias in task.aliases}
        ]
        for name in [row.task] if row.task else having:
            rules_by_alias[name, row.alias] = row.rules if isinstance(row.rules, dict) else {}
    return {
        key: (number, bool(rules.get("authenticated")))
        for key, rules in rules_by_alias.items()
        if isinstance(number := rules.get("approvals"), int) and number >= 1
    }


def list_tasks(
    workspace: Workspace, *, after: str | None = None, limit: int | None = None, holding: str | None = None
) -> list[Task]:
    """Return tasks by name, in a constant number of queries; a page takes the same time however many adapters there are."""
    task, row = tables.TaskRow, tables.AdapterRow
    query = select(task, row).join(row, (row.task_id == task.id) & (row.version == latest_version()))
    if after is not None:
        query = query.where(task.name > after)
    if holding:
        query = query.where(task.name.contains(holding.casefold(), autoescape=True))
    with workspace.database.read() as session:
        pairs = session.execute(query.order_by(task.name).limit(limit)).all()
        alias, numbers = tables.AliasRow, [task_row.id for task_row, _ in pairs]
        holders = select(alias.task_id, alias.name, row.version, row.id).join(row, row.id == alias.adapter_id)
        rows = session.execute(holders.where(alias.task_id.in_(numbers)).order_by(alias.name)).all()
        withdrawals = of_adapters(session, [*(adapter.id for _, adapter in pairs), *(row.id for row in rows)])
        held = defaultdict[int, list[HeldVersion]](list)
        for number, name, version, adapter_id in rows:
            yanks = withdrawals.get(adapter_id, ())
            held[number].append(HeldVersion(alias=name, version=version, withdrawals=yanks))
        return [
            Task.from_row(
                adapter,
                task=task_row.name,
                adapter=adapter.name,
                withdrawals=withdrawals.get(adapter.id, ()),
                aliases=tuple(held[task_row.id]),
            )
            for task_row, adapter in pairs
        ]
