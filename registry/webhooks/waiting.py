"""The entries of the log that a webhook has not got yet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from .. import tables
from .filters import actions_of, is_one_of, patterns_of, tasks_of

MOST_COUNTED = 1000

_BATCH = 100


def newest(session: Session) -> int:
    """Return the number of the newest entry of the log, 0 where there is none."""
    return session.scalar(select(func.max(tables.Event.seq))) or 0


def waiting_for(session: Session, hook: tables.Webhook, after: int) -> Iterator[tables.Event]:
    """Yield the entries that a webhook gets, in their order, a few at a time.

    Args:
        session: of any transaction.
        hook: whose patterns count.
        after: only entries with a greater number.
    """
    event = tables.Event
    wanted, tasks = actions_of(patterns_of(hook.actions)), patterns_of(hook.tasks)
    while wanted:
        query = select(event).where(event.seq > after, event.action.in_(wanted))
        rows = session.scalars(query.order_by(event.seq).limit(_BATCH)).all()
        yield from (row for row in rows if not tasks or is_one_of(_tasks(session, row), tasks))
        if len(rows) < _BATCH:
            return
        after = rows[-1].seq


def head(session: Session, hook: tables.Webhook, after: int) -> tables.Event | None:
    """Return the first entry that a webhook gets behind a number, None where it waits for none."""
    return next(waiting_for(session, hook, after), None)


def count(session: Session, hook: tables.Webhook, after: int) -> int:
    """Return how many entries a webhook waits for, up to `MOST_COUNTED`."""
    return sum(1 for _ in islice(waiting_for(session, hook, after), MOST_COUNTED))


def _tasks(session: Session, row: tables.Event) -> frozenset[str]:
    """Return the tasks that an entry is about; where it says none itself, those of what it has the digest of."""
    return tasks_of(row.subject_kind, row.subject, row.detail) or frozenset(
        _recorded(session, row.subject_kind, row.subject)
    )


def _recorded(session: Session, kind: str, digest: str) -> Iterator[str]:
    task, adapter, fused = tables.Task, tables.Adapter, tables.Fused
    query = select(task.name).distinct().join(adapter, adapter.task_id == task.id)
    if kind == "adapter":
        yield from session.scalars(query.where(adapter.digest == digest))
    elif kind == "fused":
        extra = tables.FusedExtra
        others = select(extra.adapter_id).join(fused, fused.id == extra.fused_id).where(fused.key == digest)
        own = select(fused.adapter_id).where(fused.key == digest)
        yield from session.scalars(query.where(or_(adapter.id.in_(own), adapter.id.in_(others))))
