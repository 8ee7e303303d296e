"""Delivering: each event at least once, and to each receiver in order.

Only who holds a webhook's lease delivers to it, one event at a time: look what is first, send it, and move the position in the
transaction that gives the lease back, if the position is still what it was (docs/internals/leases.md).  Whoever dies between the
receiver's answer and that transaction leaves the event where it was, and it comes again under the same id.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..database import leases
from ..database.leases import Busy
from ..errors import LeaseLostError
from ..records.webhook import WebhookDeliveries
from .addresses import Target, parse_url
from .backoff import Backoff
from .deliverer import Deliverer
from .hooks import delivery_to, find, tell
from .notifiers import notify
from .payload import Delivery, body_of, delivery_of
from .sending import SECONDS, Answer
from .signing_key import derive, headers
from .waiting import head, newest

if TYPE_CHECKING:
    from ..workspace import Workspace

TTL = 30.0
"""Seconds of a lease: an attempt is over long before."""

PAUSE = 1.0
"""Seconds between two looks at what is due."""

_AT_ONCE = 8
"""Receivers that are delivered to at the same time: one that hangs does not hold up the others."""

_IN_A_ROW = 100
"""Events of one receiver before others have their turn."""

Post = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Manner:
    """How it is delivered.

    Attributes:
        deliverer: what whoever delivers knows and may do.
        backoff: when a failed delivery is tried again.
        seconds: that an attempt takes at most.
        post: makes one attempt.
    """

    deliverer: Deliverer = field(default_factory=Deliverer.load)
    backoff: Backoff = field(default_factory=Backoff)
    seconds: float = SECONDS
    post: Post = notify


def deliver(
    workspace: Workspace,
    name: str | None = None,
    *,
    manner: Manner | None = None,
    stop: threading.Event | None = None,
    reporter: Reporter = SILENT,
) -> list[WebhookDeliveries]:
    """Deliver what is due, until nothing is, and return what became of it: of each webhook that something was sent to.

    Args:
        workspace: the registry's parts.
        name: of a webhook, for that one alone.
        manner: how; by default as the environment says.
        stop: ends it between two events when it is set.
        reporter: told of what was not delivered.

    Raises:
        NoWebhookSecretError: the secret that signs is not known here.
        UnknownReferenceError: there is no such webhook.
    """
    how = _checked(manner)
    stopped = stop or threading.Event()
    with workspace.database.read() as session:
        only = find(session, name).id if name is not None else None
    tried: dict[int, WebhookDeliveries] = {}
    # Again as long as something came of it: of many events, each receiver has some in turn.
    while due := [each for each in _due(workspace) if only in (None, each[0]) and not stopped.is_set()]:
        with _Pool(stopped) as pool:
            made = list(
                pool.map(lambda each: _serve(workspace, each[0], each[1], how, stopped, reporter), due)
            )
        found = {number: each for (number, _), each in zip(due, made, strict=True) if each is not None}
        tried |= {number: _added(tried.get(number), each) for number, each in found.items()}
        if not any(each.delivered for each in found.values()):
            break
    return sorted(tried.values(), key=lambda each: each.name)


def run(
    workspace: Workspace,
    *,
    stop: threading.Event,
    manner: Manner | None = None,
    reporter: Reporter = SILENT,
    pause: float = PAUSE,
) -> None:
    """Deliver events as they come, until it is told to stop; what it is at then is finished, within an attempt's time.

    A database that does not answer is waited for.

    Args:
        workspace: the registry's parts.
        stop: ends it when it is set.
        manner: how; by default as the environment says.
        reporter: told of what was not delivered, and of a database that does not answer.
        pause: seconds between two looks.

    Raises:
        NoWebhookSecretError: the secret that signs is not known here.
    """
    how = _checked(manner)
    busy: dict[str, Future[WebhookDeliveries | None]] = {}
    said = ""
    with _Pool(stop) as pool:
        while not stop.is_set():
            try:
                due, problem = _due(workspace), ""
            except FuseryError as error:
                due, problem = [], error.message
            if problem and problem != said:
                reporter.say(problem)
            said = problem
            for name in [name for name, future in busy.items() if future.done()]:
                _report(name, busy.pop(name), reporter)
            for number, name in due:
                if name not in busy:
                    busy[name] = pool.submit(_serve, workspace, number, name, how, stop, reporter)
            stop.wait(pause)


def _report(name: str, done: Future[WebhookDeliveries | None], reporter: Reporter) -> None:
    """Tell of an error that nobody thought of, which would be lost with its thread; others are delivered to."""
    if (error := done.exception()) is not None:
        reporter.say(f"webhook {name} was not delivered to: {type(error).__name__}")


class _Pool(ThreadPoolExecutor):
    """Threads that end with the attempts they are at when whoever started them is interrupted."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(_AT_ONCE, "webhook")
        self._stop = stop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            self._stop.set()
        return super().__exit__(kind, error, trace)


def _checked(manner: Manner | None) -> Manner:
    how = manner or Manner()
    how.deliverer.require_secrets()
    return how


def _added(before: WebhookDeliveries | None, now: WebhookDeliveries) -> WebhookDeliveries:
    if before is None:
        return now
    return replace(now, delivered=before.delivered + now.delivered)


def _due(workspace: Workspace) -> list[tuple[int, str]]:
    """Return the webhooks with entries behind their position that may be tried now, with their names."""
    hook, delivery = tables.Webhook, tables.WebhookDelivery
    with workspace.database.read() as session:
        query = select(hook.id, hook.name).join(delivery, delivery.webhook_id == hook.id)
        query = query.where(
            delivery.disabled_at.is_(None),
            delivery.position < newest(session),
            or_(delivery.next_at.is_(None), delivery.next_at <= workspace.database.utcnow(session)),
        )
        return [(number, name) for number, name in session.execute(query.order_by(hook.id))]


def _serve(
    workspace: Workspace, number: int, name: str, how: Manner, stop: threading.Event, reporter: Reporter
) -> WebhookDeliveries | None:
    """Deliver to one webhook until nothing waits or something fails; None where there was nothing to send, or others do it."""
    delivered: list[int] = []
    error, next_at, disabled = None, None, False
    try:
        while len(delivered) < _IN_A_ROW and not stop.is_set():
            tried = _one(workspace, number, how)
            if tried is None:
                break
            if tried.error:
                error, next_at, disabled = tried.error, tried.next_at, tried.next_at is None
                again = f"next attempt at {next_at:%H:%M:%S} UTC" if next_at else "it is disabled"
                reporter.say(f"webhook {name}: entry {tried.seq} was not delivered: {error}; {again}")
                break
            delivered.append(tried.seq)
    except FuseryError as failure:  # the database went away, or the lease did
        error = failure.message
        reporter.say(f"webhook {name}: {error}")
    if not delivered and error is None:
        return None
    return WebhookDeliveries(
        name=name, delivered=tuple(delivered), error=error, next_attempt=next_at, disabled=disabled
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    seq: int
    error: str
    next_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Case:
    """What a webhook is at: the first entry that it waits for, None where it waits for none up to `newest`."""

    hook: tables.Webhook
    position: int
    newest: int
    entry: tables.Event | None
    delivery: Delivery | None


def _one(workspace: Workspace, number: int, how: Manner) -> _Tried | None:
    """Send the first event that a webhook waits for; None where there is none, or somebody else is at it."""
    first = _look(workspace, number)
    if first is None or first.entry is None:
        _pass_by(workspace, first)
        return None
    lease = leases.acquire(workspace.database, f"webhook {first.hook.uid}", workspace.owner(), ttl=TTL)
    if isinstance(lease, Busy):
        return None
    with lease.keep():
        # Again: whoever had the lease before may have delivered it.
        case = _look(workspace, number)
        if case is None or case.entry is None:
            with workspace.database.write() as session:
                lease.publish(session)
            return None
        answer = _send(case, how)
        lease.check()
        with workspace.database.write() as session:
            lease.publish(session)
            return _settle(workspace, session, case, answer, how)


def _look(workspace: Workspace, number: int) -> _Case | None:
    with workspace.database.read() as session:
        hook = session.get(tables.Webhook, number)
        if hook is None or delivery_to(hook).disabled_at is not None:
            return None
        next_at = hook.delivery.next_at
        if next_at is not None and next_at > workspace.database.utcnow(session):
            return None
        position, last = hook.delivery.position, newest(session)
        entry = head(session, hook, position)
        delivery = None
        if entry is not None:
            try:
                delivery = delivery_of(session, hook, entry)
            except (ValueError, RecursionError):  # edited by other means, which the audit names
                delivery = None
        return _Case(hook, position, last, entry, delivery)


def _pass_by(workspace: Workspace, case: _Case | None) -> None:
    """Move the position behind what is for others; no lease is needed, since nothing is sent."""
    if case is not None and case.newest > case.position:
        with workspace.database.write() as session:
            moved(session, case.hook.id, case.position, case.newest)


def _send(case: _Case, how: Manner) -> Answer:
    if case.delivery is None:
        return Answer("the entry of the log is not readable: fusery audit names it")
    try:
        target: Target = parse_url(case.hook.url)
    except FuseryError as error:  # edited by other means, or its plugin is gone
        return Answer(error.message)
    keys = [derive(secret, case.hook.uid, case.hook.url) for secret in how.deliverer.require_secrets()]
    body = body_of(case.delivery)
    signed = headers(keys, case.delivery.id, int(time.time()), body)
    private = case.hook.private and how.deliverer.private
    return how.post(target, signed, body, private=private, seconds=how.seconds)


def _settle(workspace: Workspace, session: Session, case: _Case, answer: Answer, how: Manner) -> _Tried:
    """Record what came of an attempt.

    Raises:
        LeaseLostError: somebody passed over the event meanwhile, or removed the webhook.
    """
    assert case.entry is not None
    now = workspace.database.utcnow(session)
    seq, next_at = case.entry.seq, None
    if not answer.error:
        # Not before the event, even if the clock was set back: the audit compares both.
        good = moved(session, case.hook.id, case.position, seq, delivered_at=max(now, case.entry.at))
    else:
        attempts = case.hook.delivery.attempts + 1
        next_at = None if answer.gone else now + timedelta(seconds=how.backoff.after(attempts))
        good = _changed(
            session,
            case.hook.id,
            case.position,
            attempts=attempts,
            error=answer.error[:300],
            next_at=next_at,
            disabled_at=now if answer.gone else None,
        )
        if good and answer.gone:
            tell(workspace, session, "webhook.disabled", case.hook, {"seq": seq, "reason": answer.error}, now)
    if not good:
        raise LeaseLostError("an event was passed over, or its webhook removed, while it was sent")
    return _Tried(seq, answer.error, next_at)


def moved(
    session: Session, number: int, before: int, position: int, *, delivered_at: datetime | None = None
) -> bool:
    """Move a webhook's position if it is still what it was; return whether it was."""
    also = {"delivered_at": delivered_at} if delivered_at is not None else {}
    return _changed(session, number, before, position=position, attempts=0, error=None, next_at=None, **also)


def _changed(session: Session, number: int, before: int, **values: object) -> bool:
    row = tables.WebhookDelivery
    statement = update(row).where(row.webhook_id == number, row.position == before).values(values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
