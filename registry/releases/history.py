"""The holder of an alias at a moment, in one query whose cost does not grow with the history."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Select, bindparam, select
from sqlalchemy.orm import Session

from .. import tables
from ..names import Reference
from ..parsing import parse_moment
from ..records.alias import AliasHolder
from ..records.references import no_alias
from ..records.withdrawals import is_yanked, of_adapters
from .aliases import alias_reference

if TYPE_CHECKING:
    from ..workspace import Workspace


def show_alias(workspace: Workspace, reference: str, *, at: str | None = None) -> AliasHolder:
    """Return the adapter that an alias holds, or held at a moment.

    A move takes effect at its own moment, to the microsecond; so does a withdrawal, until it is lifted.

    Args:
        workspace: the registry's parts.
        reference: `task#alias`.
        at: a moment; a day means its end, in UTC.

    Raises:
        UnknownReferenceError: there is no such alias.
        BadInputError: that is no moment.
    """
    moment = parse_moment(at, end_of_day=True) if at is not None else None
    wanted = alias_reference(reference)
    with workspace.database.read() as session:
        row = _held(session, wanted, moment)
        if row is None:
            raise no_alias(session, reference)
        told = of_adapters(session, [row.holder] if row.holder is not None else [], at=moment)
    return AliasHolder(
        alias=f"{row.task}#{row.alias}",
        adapter=row.adapter,
        digest=row.digest,
        yanked=None if row.adapter is None else bool(row.yanked),
        withdrawals=told.get(row.holder, ()),
        at=moment,
        since=row.since,
        by=row.by,
        reason=row.reason,
    )


def holder_then(session: Session, wanted: Reference, moment: datetime) -> int | None:
    """Return the row number of the adapter that an alias held at a moment; None if it held none or does not exist."""
    row = _held(session, wanted, moment)
    return None if row is None else row.holder


def _held(session: Session, wanted: Reference, moment: datetime | None) -> Any:
    """Return the row of an alias with its last move until a moment, and where that went; None if there is no such alias."""
    asked = {"task": wanted.task, "alias": wanted.value, "moment": moment}
    return session.execute(_holders(moment is None), asked).first()


@cache
def _holders(now: bool) -> Select[*tuple[Any, ...]]:
    task, alias, moved, adapter = tables.Task, tables.Alias, tables.AliasMove, tables.Adapter
    newest = select(moved.id).where(moved.alias_id == alias.id).correlate(alias).limit(1)
    moment: BindParameter[datetime] | None = None if now else bindparam("moment")
    if moment is None:
        newest = newest.order_by(moved.id.desc())
    else:
        # Of several moves in one moment the last one counts.
        newest = newest.where(moved.at <= moment).order_by(moved.at.desc(), moved.id.desc())
    return (
        select(
            task.name.label("task"),
            alias.name.label("alias"),
            adapter.name.label("adapter"),
            adapter.digest,
            adapter.id.label("holder"),
            moved.at.label("since"),
            moved.by,
            moved.reason,
            is_yanked(adapter.id, moment).label("yanked"),
        )
        .select_from(alias)
        .join(task, task.id == alias.task_id)
        .outerjoin(moved, moved.id == newest.scalar_subquery())
        .outerjoin(adapter, adapter.id == moved.to_adapter_id)
        .where(task.name == bindparam("task"), alias.name == bindparam("alias"))
    )
