"""List the tasks, each with the version that `@latest` means and the adapters of its aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..record import Record, described
from ..records.references import latest_version
from ..records.withdrawal import Withdrawal
from ..records.withdrawals import of_adapters

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldVersion(Record):
    """An alias of a task, and the version that it holds."""

    alias: str = described("its name, without that of its task")
    version: int = described("that it holds")
    withdrawals: tuple[Withdrawal, ...] = described("what that has to do with yanks that stand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Record):
    """A task that adapters are for."""

    task: str = described("its name")
    adapter: str = described("name of the version that `@latest` means")
    version: int = described("its number")
    val_loss: float | None = described("its validation loss")
    withdrawals: tuple[Withdrawal, ...] = described("what it has to do with yanks that stand")
    created_at: datetime = described("when it was registered")
    created_by: str = described("who registered it")
    aliases: tuple[HeldVersion, ...] = described("those that hold a version")


def list_tasks(
    workspace: Workspace, *, after: str | None = None, limit: int | None = None, holding: str | None = None
) -> list[Task]:
    """Return tasks by name, in a constant number of queries; a page takes the same time however many adapters there are.

    Args:
        workspace: the registry's parts.
        after: only those whose names come after this one.
        limit: at most so many.
        holding: only those whose names have this in them.
    """
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
