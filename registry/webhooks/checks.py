"""Compare the position of each webhook with the log: the rows of `webhook_delivery` have no seal.

A position may only pass an event that was delivered or skipped.  A skip is in the log; a delivery is not, but it is later
than the event.  So an event up to the position that is newer than the last delivery was never delivered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..audit.report import Report, in_order
from ..database.actions import ADOPTED
from .backoff import Backoff
from .filters import actions_of, is_one_of, patterns_of, tasks_of
from .waiting import newest

if TYPE_CHECKING:
    from ..workspace import Workspace

CODE = "delivery_differs"
_STATES = ("webhook.added", "webhook.disabled", "webhook.enabled", "webhook.skipped", ADOPTED)


def check_deliveries(workspace: Workspace, report: Report) -> None:
    """Report each webhook whose position, attempts or state contradicts the log.

    Args:
        workspace: the registry's parts.
        report: receives the problems.
    """
    hook, delivery = tables.Webhook, tables.WebhookDelivery
    with workspace.database.read() as session:
        for number, name in session.execute(select(hook.id, hook.name).order_by(hook.id)).all():
            with in_order(report, f"webhook {name}"):
                row = session.get_one(hook, number)
                log = _read_log(session, str(name))
                for message in _differences(session, row, log, workspace.database.utcnow(session)):
                    report.add(CODE, f"webhook {name}", message)
        numbers = select(delivery.webhook_id).where(delivery.webhook_id.not_in(select(hook.id)))
        for number in session.scalars(numbers):
            report.add(CODE, f"webhook_delivery {number}", f"row {number} belongs to no webhook")


@dataclass(slots=True)
class _Log:
    """What the log says about one webhook.

    Attributes:
        added: number of the entry that added it; 0 without such an entry.
        skipped: numbers of the entries that were skipped.
        disabled: an entry disabled it, and none enabled it since.
        disabled_at: time of that entry; None if the restore of a foreign backup disabled it.
        adopted: such a restore is in the log.
    """

    added: int
    skipped: set[int]
    disabled: bool = False
    disabled_at: datetime | None = None
    adopted: bool = False


def _read_log(session: Session, name: str) -> _Log:
    event, found = tables.Event, _Log(0, set())
    for entry in session.scalars(select(event).where(event.action.in_(_STATES)).order_by(event.seq)):
        if entry.action == ADOPTED:
            found.adopted, found.disabled, found.disabled_at = True, True, None
        elif entry.subject != name:
            continue
        elif entry.action == "webhook.added":
            found = _Log(entry.seq, set())
        elif entry.action == "webhook.skipped":
            found.skipped.add(json.loads(entry.detail)["seq"])
        else:
            found.disabled = entry.action == "webhook.disabled"
            found.disabled_at = entry.at if found.disabled else None
    return found


def _differences(session: Session, hook: tables.Webhook, log: _Log, now: datetime) -> Iterator[str]:
    row: tables.WebhookDelivery | None = hook.delivery
    if row is None:
        yield "its row of webhook_delivery is missing"
        return
    last = newest(session)
    if row.position > last:
        yield f"its position is {row.position}, and the log ends at entry {last}"
    if row.position < log.added - 1:
        yield f"its position is {row.position}, and it was added by entry {log.added}"
    behind = sorted(seq for seq in log.skipped if seq > row.position)
    if behind:
        yield f"its position is {row.position}, and entry {behind[-1]} was skipped"
    passed = next(_undelivered(session, hook, row, log), None)
    if passed is not None:
        yield f"its position is {row.position}, and entry {passed} was neither delivered nor skipped"
    if row.delivered_at is not None and not hook.created_at <= row.delivered_at <= now:
        yield "its last delivery is before it was added, or in the future"
    yield from _state_differences(row, log, now)


def _state_differences(row: tables.WebhookDelivery, log: _Log, now: datetime) -> Iterator[str]:
    if (row.attempts > 0) is (row.error is None) and not (log.adopted and row.attempts == 0):
        yield f"it has {row.attempts} failed attempts, and {'no' if row.error is None else 'an'} error"
    if row.next_at is not None and (
        row.attempts == 0 or row.next_at > now + timedelta(seconds=Backoff().most)
    ):
        yield "its next attempt is later than any backoff"
    if (row.disabled_at is not None) is not log.disabled:
        state = "disabled" if row.disabled_at is not None else "not disabled"
        yield f"it is {state}, and the log says otherwise"
    elif log.disabled_at is not None and row.disabled_at != log.disabled_at:
        yield "it was not disabled when the log says so"


def _undelivered(
    session: Session, hook: tables.Webhook, row: tables.WebhookDelivery, log: _Log
) -> Iterator[int]:
    """Yield the numbers of events up to the position that are newer than the last delivery, without skipped ones."""
    event = tables.Event
    tasks: Sequence[str] = patterns_of(hook.tasks)
    query = select(event.seq, event.subject_kind, event.subject, event.detail).where(
        event.seq > log.added,
        event.seq <= row.position,
        event.action.in_(actions_of(patterns_of(hook.actions))),
    )
    if row.delivered_at is not None:
        query = query.where(event.at > row.delivered_at)
    for seq, kind, subject, detail in session.execute(query.order_by(event.seq)):
        # The tasks that an entry itself names: those of a digest may have been registered later.
        if seq not in log.skipped and (not tasks or is_one_of(tasks_of(kind, subject, detail), tasks)):
            yield seq
