"""Deliver each event at least once, and to each receiver in order; audit the positions.

Only the holder of a webhook's lease delivers to it, one event at a time: it reads the first event, sends it, and moves the
position in the transaction that gives the lease back, if the position has not changed (docs/internals/leases.md).  After a
crash between the receiver's answer and that transaction, the event is sent again under the same id.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.secrets import masked

from .. import tables
from ..catalog.event_log import events_of
from ..database import events, leases
from ..errors import LeaseLostError
from ..record import Record, described
from ..records.event import Event, Webhook, WebhookDeliveries
from ..upkeep.report import Report, in_order
from ..workspace.workspace import Workspace
from .hooks import actions_of, changed, delivery_to, find, head, is_one_of, moved, newest, show, tasks_of
from .sending import SECONDS, Deliverer, DeliveryAnswer, derive, headers, parse_url, post

TTL = 30.0  # seconds of a lease, many more than an attempt takes
PAUSE = 1.0  # seconds between two looks for events
_LONGEST = 3600.0  # seconds between two attempts
_IN_A_ROW = 100  # deliveries, before another webhook gets the thread
_AT_ONCE = 8  # receivers that are delivered to at the same time: one that hangs does not hold up the others


@dataclass(frozen=True, slots=True)
class Manner:
    """How to deliver; an attempt by `post` takes at most `seconds`."""

    deliverer: Deliverer = field(default_factory=Deliverer.load)
    first: float = 1.0  # the least and the most seconds between two attempts
    most: float = _LONGEST
    seconds: float = SECONDS
    post: Callable[..., DeliveryAnswer] = post

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait after failed attempts: doubled each time, less up to a quarter to spread them."""
        doublings = min(max(attempts, 1) - 1, 64)  # a float holds no more of them
        return min(self.most, self.first * 2.0**doublings) * (1 - random.random() / 4)


class Delivery(Record):
    """One event for one webhook: an entry of the log as `fusery log --json` prints it, framed as Standard Webhooks say."""

    id: str = described("id of the delivery, the same whenever it is tried")
    hook: str = described("name of the webhook")
    type: str = described("the action, such as `alias.moved`")
    timestamp: datetime = described("when it happened", exact=True)
    data: Event = described("the entry of the log")


def deliver(
    workspace: Workspace,
    name: str | None = None,
    *,
    manner: Manner | None = None,
    reporter: Reporter = SILENT,
) -> list[WebhookDeliveries]:
    """Deliver all due events, and return the results by webhook."""
    how = manner or Manner()
    how.deliverer.require_secrets()
    stopped = threading.Event()
    with workspace.database.read() as session:
        only = find(session, name).id if name is not None else None
    due = [hook for hook in _all_due(workspace) if only in (None, hook.id)]
    with _pool(stopped) as pool:
        results = pool.map(lambda hook: _serve(workspace, hook, how, stopped, reporter), due)
        return sorted(filter(None, results), key=lambda result: result.name)


def run(
    workspace: Workspace,
    *,
    stop: threading.Event,
    manner: Manner | None = None,
    reporter: Reporter = SILENT,
    pause: float = PAUSE,
) -> None:
    """Deliver events until `stop` is set and attempts have ended; wait for a database that does not answer."""
    how = manner or Manner()
    how.deliverer.require_secrets()
    busy: dict[str, Future[WebhookDeliveries | None]] = {}
    reported = ""
    with _pool(stop) as pool:
        while not stop.is_set():
            try:
                due, problem = _all_due(workspace), ""
            except FuseryError as error:
                due, problem = [], error.message
            if problem and problem != reported:
                reporter.say(problem)
            reported = problem
            for name in [name for name, future in busy.items() if future.done()]:
                # An unexpected error would be lost with its thread; others are delivered to.
                if (failure := busy.pop(name).exception()) is not None:
                    reporter.say(f"webhook {name} was not delivered to: {type(failure).__name__}")
            for hook in due:
                if hook.name not in busy:
                    busy[hook.name] = pool.submit(_serve, workspace, hook, how, stop, reporter, _IN_A_ROW)
            stop.wait(pause)


@contextmanager
def _pool(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that end after their present attempts when the caller is interrupted."""
    with ThreadPoolExecutor(_AT_ONCE, "webhook") as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            raise


def _due(workspace: Workspace, session: Session) -> Select[tables.WebhookRow]:
    """Return the query for the webhooks that may have something to send now."""
    hook, delivery = tables.WebhookRow, tables.WebhookDeliveryRow
    is_time = or_(delivery.next_at.is_(None), delivery.next_at <= workspace.database.utcnow(session))
    waits = delivery.disabled_at.is_(None) & (delivery.position < newest(session)) & is_time
    return select(hook).join(delivery, delivery.webhook_id == hook.id).where(waits).order_by(hook.id)


def _all_due(workspace: Workspace) -> Sequence[tables.WebhookRow]:
    with workspace.database.read() as session:
        return session.scalars(_due(workspace, session)).all()


def _serve(
    workspace: Workspace,
    hook: tables.WebhookRow,
    how: Manner,
    stop: threading.Event,
    reporter: Reporter,
    most: int = sys.maxsize,
) -> WebhookDeliveries | None:
    """Deliver at most `most` events to one webhook, until one fails or none is left; None if there was nothing to send."""
    delivered: list[int] = []
    error, next_at, disabled = None, None, False
    try:
        while len(delivered) < most and not stop.is_set():
            if (tried := _deliver_first(workspace, hook, how)) is None:
                break
            seq, problem, next_at = tried
            if problem:
                error, disabled = problem, next_at is None
                again = f"next attempt at {next_at:%H:%M:%S} UTC" if next_at else "it is disabled"
                reporter.say(f"webhook {hook.name}: entry {seq} was not delivered: {error}; {again}")
                break
            delivered.append(seq)
    except FuseryError as failure:  # the database went away, or the lease did
        error = failure.message
        reporter.say(f"webhook {hook.name}: {error}")
    if not delivered and error is None:
        return None
    return WebhookDeliveries(
        name=hook.name, delivered=tuple(delivered), error=error, next_attempt=next_at, disabled=disabled
    )


_Tried = tuple[int, str, datetime | None]  # the entry, what went wrong, and when it is tried again


def _deliver_first(workspace: Workspace, hook: tables.WebhookRow, how: Manner) -> _Tried | None:
    """Send the first event that a webhook waits for; None without such, or if another process holds the lease."""
    lease = leases.acquire(workspace.database, f"webhook {hook.uid}", workspace.owner(), ttl=TTL)
    if isinstance(lease, str):
        return None
    with lease.keep():
        with workspace.database.read() as session:
            last = newest(session)
            row = session.scalar(_due(workspace, session).where(tables.WebhookRow.id == hook.id))
            entry = head(session, row, row.delivery.position) if row is not None else None
            delivery = _delivery(session, row, entry) if row is not None and entry is not None else None
        answer = _send(row, delivery, how) if row is not None and entry is not None else None
        lease.check()
        with workspace.database.write() as session:
            lease.publish(session)
            if row is None:
                return None
            if answer is None or entry is None:  # all entries after the position are for others
                moved(session, row.id, row.delivery.position, last)
                return None
            return _settle(workspace, session, row, entry, answer, how)


def _delivery(session: Session, hook: tables.WebhookRow, entry: tables.EventRow) -> Delivery | None:
    """Return the delivery of an entry; None if it was edited by other means, which the audit reports."""
    with suppress(ValueError, RecursionError):
        [event] = events_of(session, [entry])
        key = f"msg_{hook.uid}_{entry.seq}"
        return Delivery(id=key, hook=hook.name, type=event.action, timestamp=event.at, data=event)
    return None


def _send(hook: tables.WebhookRow, delivery: Delivery | None, how: Manner) -> DeliveryAnswer:
    if delivery is None:
        return DeliveryAnswer("the entry of the log is not readable: fusery audit names it")
    try:
        target = parse_url(hook.url)
    except FuseryError as error:  # edited by other means
        return DeliveryAnswer(error.message)
    keys = [derive(secret, hook.uid, hook.url) for secret in how.deliverer.require_secrets()]
    body = masked(json.dumps(delivery.to_dict(), allow_nan=False)).encode("ascii")
    signed = headers(keys, delivery.id, int(time.time()), body)
    private = hook.private and how.deliverer.private
    return how.post(target, signed, body, private=private, seconds=how.seconds)


def _settle(
    workspace: Workspace,
    session: Session,
    hook: tables.WebhookRow,
    entry: tables.EventRow,
    answer: DeliveryAnswer,
    how: Manner,
) -> _Tried:
    now, position, next_at = workspace.database.utcnow(session), hook.delivery.position, None
    if not answer.error:
        # Not before the event, even if the clock was set back: the audit compares both.
        good = moved(session, hook.id, position, entry.seq, delivered_at=max(now, entry.at))
    else:
        attempts = hook.delivery.attempts + 1
        next_at = None if answer.gone else now + timedelta(seconds=how.pause(attempts))
        failed = {"attempts": attempts, "error": answer.error[:300], "next_at": next_at}
        good = changed(session, hook.id, position, **failed, disabled_at=now if answer.gone else None)
        if good and answer.gone:
            detail = {"seq": entry.seq, "reason": answer.error}
            events.record(session, "webhook.disabled", "webhook", hook.name, detail, at=now)
    if not good:
        raise LeaseLostError("an event was passed over, or its webhook removed, while it was sent")
    return entry.seq, answer.error, next_at


def retry(
    workspace: Workspace, name: str, *, manner: Manner | None = None, reporter: Reporter = SILENT
) -> Webhook:
    """Deliver to a webhook now, or without the secret let the next deliverer do it, even if disabled; return it."""
    how = manner or Manner()
    with workspace.database.write() as session:
        row = find(session, name)
        delivery = row.delivery = delivery_to(row)
        if delivery.disabled_at is not None:
            events.record(session, "webhook.enabled", "webhook", row.name, {"url": row.url})
        # The error stays until the next attempt.
        delivery.next_at = delivery.disabled_at = None
    if how.deliverer.secrets:
        deliver(workspace, name, manner=how, reporter=reporter)
    return show(workspace, name)


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
    latest = now + timedelta(seconds=_LONGEST)
    delivered_at = row.delivered_at or hook.created_at
    is_late = row.next_at is not None and (row.attempts == 0 or row.next_at > latest)
    wrong = {
        "the log ends before its position": row.position > newest(session),
        "its position is before the entry that added it": row.position < added - 1,
        "its position is before an entry that was skipped": max(skipped, default=0) > row.position,
        f"entry {passed} was neither delivered nor skipped": passed is not None,
        "its last delivery is before it was added, or in the future": not hook.created_at
        <= delivered_at
        <= now,
        "it has failed attempts without an error, or an error without": (row.attempts > 0)
        is (row.error is None),
        "its next attempt is later than any backoff": is_late,
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
