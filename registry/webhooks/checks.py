"""Compare the position of each webhook with the log: the rows of `webhook_delivery` have no seal.

A delivery is later than its event.  So an event up to the position that is newer than the last delivery, and was not
skipped, was never delivered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..upkeep.report import Report, in_order
from ..workspace.workspace import Workspace
from .delivering import Backoff
from .hooks import actions_of, is_one_of, newest, tasks_of

CODE = "delivery_differs"
_STATES = ("webhook.added", "webhook.disabled", "webhook.enabled", "webhook.skipped")


def check_deliveries(workspace: Workspace, report: Report) -> None:
    """Report each webhook whose position or state contradicts the log."""
    hook, delivery = tables.WebhookRow, tables.WebhookDeliveryRow
    with workspace.database.read() as session:
        for number, name in session.execute(select(hook.id, hook.name).order_by(hook.id)).all():
            with in_order(report, f"webhook {name}"):
                row, now = session.get_one(hook, number), workspace.database.utcnow(session)
                for message in _differences(session, row, now):
                    report.add(CODE, f"webhook {name}", message)
        numbers = select(delivery.webhook_id).where(delivery.webhook_id.not_in(select(hook.id)))
        for number in session.scalars(numbers):
            report.add(CODE, f"webhook_delivery {number}", f"row {number} belongs to no webhook")


def _differences(session: Session, hook: tables.WebhookRow, now: datetime) -> Iterator[str]:
    row: tables.WebhookDeliveryRow | None = hook.delivery
    if row is None:
        yield "its row of webhook_delivery is missing"
        return
    added, disabled, skipped, event = 0, False, set[int](), tables.EventRow
    states = select(event).where(event.action.in_(_STATES), event.subject == hook.name).order_by(event.seq)
    for entry in session.scalars(states):
        if entry.action == "webhook.added":
            added, disabled, skipped = entry.seq, False, set()
        elif entry.action == "webhook.skipped":
            skipped.add(json.loads(entry.detail)["seq"])
        else:
            disabled = entry.action == "webhook.disabled"
    passed = next(_undelivered(session, hook, row, added, skipped), None)
    latest = now + timedelta(seconds=Backoff().most)
    wrong = {
        "the log ends before its position": row.position > newest(session),
        "its position is before the entry that added it": row.position < added - 1,
        "its position is before an entry that was skipped": max(skipped, default=0) > row.position,
        f"entry {passed} was neither delivered nor skipped": passed is not None,
        "its last delivery is before it was added, or in the future": (
            row.delivered_at is not None and not hook.created_at <= row.delivered_at <= now
        ),
        "it has failed attempts without an error, or an error without": (row.attempts > 0)
        is (row.error is None),
        "its next attempt is later than any backoff": (
            row.next_at is not None and (row.attempts == 0 or row.next_at > latest)
        ),
        "the log has another state of it": (row.disabled_at is not None) is not disabled,
    }
    yield from (message for message, is_wrong in wrong.items() if is_wrong)


def _undelivered(
    session: Session, hook: tables.WebhookRow, row: tables.WebhookDeliveryRow, added: int, skipped: set[int]
) -> Iterator[int]:
    """Yield the numbers of events up to the position that were neither delivered nor skipped."""
    event = tables.EventRow
    tasks: Sequence[str] = hook.tasks
    query = select(event.seq, event.subject_kind, event.subject, event.detail).where(
        event.seq > added, event.seq <= row.position, event.action.in_(actions_of(hook.actions))
    )
    if row.delivered_at is not None:
        query = query.where(event.at > row.delivered_at)
    for seq, kind, subject, detail in session.execute(query.order_by(event.seq)):
        # The tasks that an entry itself names: those of a digest may have been registered later.
        if seq not in skipped and (not tasks or is_one_of(tasks_of(kind, subject, detail), tasks)):
            yield seq
