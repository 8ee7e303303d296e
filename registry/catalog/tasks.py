"""List the tasks, each with the version that `@latest` means and the adapters of its aliases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..records.references import latest_version
from ..records.task import HeldVersion, Task
from ..records.withdrawals import of_adapters

if TYPE_CHECKING:
    from ..workspace import Workspace


def list_tasks(
    workspace: Workspace, *, after: str | None = None, limit: int | None = None, holding: str | None = None
) -> list[Task]:
    """Return tasks by name, in a constant number of queries; a page takes the same time however many adapters there are."""
    task, row = tables.Task, tables.Adapter
    query = select(task, row).join(row, (row.task_id == task.id) & (row.version == latest_version()))
    if after is not None:
        query = query.where(task.name > after)
    if holding:
        query = query.where(task.name.contains(holding.casefold(), autoescape=True))
    with workspace.database.read() as session:
        found = session.execute(query.order_by(task.name).limit(limit)).all()
        told = of_adapters(session, [adapter.id for _, adapter in found])
        held = _held(session, [each.id for each, _ in found])
        return [
            Task.from_row(
                adapter,
                task=each.name,
                adapter=adapter.name,
                withdrawals=tuple(told.get(adapter.id, ())),
                aliases=held.get(each.id, ()),
            )
            for each, adapter in found
        ]


def _held(session: Session, tasks: Sequence[int]) -> dict[int, tuple[HeldVersion, ...]]:
    alias, row = tables.Alias, tables.Adapter
    query = select(alias.task_id, alias.name, row.version, row.id).join(row, row.id == alias.adapter_id)
    rows = session.execute(query.where(alias.task_id.in_(tasks)).order_by(alias.name)).all()
    told = of_adapters(session, [each.id for each in rows])
    found: dict[int, tuple[HeldVersion, ...]] = {}
    for task, name, version, adapter in rows:
        held = HeldVersion(alias=name, version=version, withdrawals=tuple(told.get(adapter, ())))
        found[task] = (*found.get(task, ()), held)
    return found
