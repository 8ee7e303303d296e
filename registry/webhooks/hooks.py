"""Webhooks on record: add, list, show and remove them; the events that they get; the keys that their receivers need."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..database.events import ACTIONS
from ..errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from ..names import AdapterName, parse_slug
from ..parsing import nearest
from ..record import row_values
from ..records.event import AddedWebhook, SkippedEvent, State, Webhook, WebhookKey
from ..workspace.workspace import Workspace
from .sending import PRIVATE, Deliverer, derive, is_named_private, key_text, parse_url

_MOST = 100
_ACTION = re.compile(r"[a-z._*?]{1,50}")
_TASK = re.compile(r"[a-z0-9._*?-]{1,128}")
_MOST_PATTERNS = 50
_MOST_COUNTED = 1000
_BATCH = 100

_NAMING = ("adapter", "adapters", "name", "with")  # in details: one name, a list, or names with weights


def add(
    workspace: Workspace,
    url: str,
    actions: Sequence[str],
    *,
    tasks: Sequence[str] = (),
    name: str | None = None,
    private: bool = False,
) -> AddedWebhook:
    """Send events to a receiver from now on: of actions, and if given of tasks, or patterns of both."""
    deliverer, target = Deliverer.load(), parse_url(url)
    host = target.hostname or ""
    if private and not deliverer.private:
        hint = f"on the machine that delivers: export {PRIVATE}=1"
        raise BadInputError("webhooks cannot reach private networks from here", hint=hint)
    if not private and is_named_private(host):
        hint = "--allow-private, if the machine that delivers may connect to it"
        raise BadInputError(f"{host[:60]} is in a private network", hint=hint)
    values = {"actions": parse_actions(actions), "tasks": parse_tasks(tasks), "url": target.geturl()}
    given = parse_slug(name, "webhook") if name is not None else None
    hook, delivery = tables.WebhookRow, tables.WebhookDeliveryRow
    with workspace.database.write() as session:
        taken = set(session.scalars(select(hook.name)))
        if given in taken:
            raise AlreadyExistsError(f"{given} is the name of another webhook", hint="choose another name")
        if len(taken) >= _MOST:
            hint = "fusery admin webhook remove NAME"
            raise BadInputError(f"there are {_MOST} webhooks already", hint=hint)
        slug = re.sub(r"[^a-z0-9.-]+", "-", host.casefold()).strip(".-")[:100].rstrip(".-")
        try:
            plain = parse_slug(slug, "webhook")
        except BadInputError:
            plain = "webhook"
        names = (plain if number == 1 else f"{plain}-{number}" for number in range(1, _MOST + 2))
        called = given or next(name for name in names if name not in taken)
        row = hook(uid=uuid.uuid4().hex, name=called, private=private, **values)
        row.created_at, row.created_by = workspace.database.utcnow(session), workspace.actor
        row.delivery = delivery(position=newest(session), attempts=0)
        session.add(row)
        session.flush()
        detail = {**values, "private": private}
        events.record(session, "webhook.added", "webhook", row.name, detail, at=row.created_at)
        key = _key(row, deliverer) if deliverer.secrets else None
        return AddedWebhook.extending(_record(session, row), key=key)


def list_hooks(workspace: Workspace) -> list[Webhook]:
    """Return all webhooks, by name."""
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.WebhookRow).order_by(tables.WebhookRow.name)).all()
        return [_record(session, row) for row in rows]


def show(workspace: Workspace, name: str) -> Webhook:
    """Return a webhook."""
    with workspace.database.read() as session:
        return _record(session, find(session, name))


def remove(workspace: Workspace, name: str, *, reason: str = "") -> Webhook:
    """Remove a webhook, and return its record."""
    with workspace.database.write() as session:
        row = find(session, name)
        shown = _record(session, row)
        detail = {"actions": row.actions, "tasks": row.tasks, "url": row.url, "reason": reason}
        session.delete(row)
        events.record(session, "webhook.removed", "webhook", row.name, detail)
        return shown


def skip(workspace: Workspace, name: str, *, reason: str) -> SkippedEvent:
    """Skip the first event that a webhook waits for, log it, and return it."""
    if not reason.strip():
        raise BadInputError("give a reason", hint="--reason 'the receiver cannot read it'")
    with workspace.database.write() as session:
        row = find(session, name)
        position = delivery_to(row).position
        entry = head(session, row, position)
        if entry is None:
            raise BadInputError(f"{row.name} waits for no event", hint="fusery admin webhook list")
        moved(session, row.id, position, entry.seq)
        detail = {"seq": entry.seq, "action": entry.action, "hash": entry.hash, "reason": reason}
        events.record(session, "webhook.skipped", "webhook", row.name, detail)
        return SkippedEvent(
            name=row.name, seq=entry.seq, action=entry.action, subject=entry.subject, reason=reason
        )


def moved(
    session: Session, number: int, before: int, position: int, *, delivered_at: datetime | None = None
) -> bool:
    """Move a webhook's position if it is still `before`; return whether it was."""
    also = {"delivered_at": delivered_at} if delivered_at is not None else {}
    return changed(session, number, before, position=position, attempts=0, error=None, next_at=None, **also)


def changed(session: Session, number: int, before: int, **values: object) -> bool:
    """Change the delivery of a webhook if its position is still `before`; return whether it was."""
    row = tables.WebhookDeliveryRow
    statement = update(row).where(row.webhook_id == number, row.position == before).values(values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def signing_key(workspace: Workspace, name: str) -> WebhookKey:
    """Return the key with which the receiver of a webhook verifies events."""
    deliverer = Deliverer.load()
    with workspace.database.read() as session:
        row = find(session, name)
        return WebhookKey(name=row.name, key=_key(row, deliverer))


def _key(row: tables.WebhookRow, deliverer: Deliverer) -> str:
    return key_text(derive(deliverer.require_secrets()[0], row.uid, row.url))


def find(session: Session, name: str) -> tables.WebhookRow:
    """Return a webhook by its name."""
    row = session.scalar(select(tables.WebhookRow).where(tables.WebhookRow.name == name.strip().casefold()))
    if row is None:
        raise UnknownReferenceError(f"there is no webhook {name[:60]!r}", hint="fusery admin webhook list")
    return row


def _record(session: Session, row: tables.WebhookRow) -> Webhook:
    delivery = delivery_to(row)
    first = head(session, row, delivery.position) if delivery.attempts else None
    failing: State = "failing" if delivery.attempts else "active"
    waiting = islice(waiting_for(session, row, delivery.position), _MOST_COUNTED)
    return Webhook.from_row(
        row,
        **row_values(Webhook, delivery),
        state="disabled" if delivery.disabled_at is not None else failing,
        waiting=sum(1 for _ in waiting),
        failing=first.seq if first is not None else None,
        next_attempt=delivery.next_at,
    )


def delivery_to(row: tables.WebhookRow) -> tables.WebhookDeliveryRow:
    """Return the state of the delivery to a webhook; without its row, it is disabled."""
    delivery: tables.WebhookDeliveryRow | None = row.delivery
    return delivery or tables.WebhookDeliveryRow(position=0, attempts=0, disabled_at=row.created_at)


def parse_actions(patterns: Sequence[str]) -> list[str]:
    """Return patterns of actions in their canonical form."""
    folded = sorted({pattern.strip().casefold() for pattern in patterns})
    hint = "--on alias.moved, or --on 'alias.*'"
    for pattern in folded:
        if not _ACTION.fullmatch(pattern) or not actions_of([pattern]):
            hint = nearest(pattern, ACTIONS, most=1) or hint
            raise BadInputError(f"there is no action {pattern[:60]!r} in the log", hint=hint)
    if not 1 <= len(folded) <= _MOST_PATTERNS:
        raise BadInputError(f"invalid actions (1 to {_MOST_PATTERNS} patterns)", hint=hint)
    return folded


def parse_tasks(patterns: Sequence[str]) -> list[str]:
    """Return patterns of tasks in their canonical form."""
    folded = sorted({pattern.strip().casefold() for pattern in patterns})
    wrong = next((pattern for pattern in folded if not _TASK.fullmatch(pattern)), None)
    if wrong is not None or len(folded) > _MOST_PATTERNS:
        message = f"invalid pattern of tasks: {(wrong or '')[:60]!r} (at most {_MOST_PATTERNS} patterns)"
        raise BadInputError(message, hint="--task course_rec, or --task 'course_*'")
    return folded


def actions_of(patterns: Sequence[str]) -> list[str]:
    """Return the actions that match one of the patterns."""
    return [action for action in ACTIONS if is_one_of([action], patterns)]


def is_one_of(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Tell whether one of the names matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def tasks_of(kind: str, subject: str, detail: str) -> frozenset[str]:
    """Return the tasks of an entry's alias and of the adapters that it names; rules of `*#prod` have none."""
    if kind == "alias":
        task = subject.rpartition("#")[0]
        return frozenset() if task in ("", "*") else frozenset({task})
    names = [subject]
    try:
        facts = json.loads(detail)
    except (ValueError, RecursionError):  # edited by other means: `audit` reports it
        facts = None
    for value in map(facts.get, _NAMING) if isinstance(facts, Mapping) else ():
        values = [value] if isinstance(value, str) else value if isinstance(value, list | Mapping) else ()
        names += (name for name in values if isinstance(name, str))
    tasks = set()
    for name in names:
        try:
            tasks.add(AdapterName.parse(name).task)
        except BadInputError:
            continue
    return frozenset(tasks)


def newest(session: Session) -> int:
    """Return the number of the newest entry of the log, 0 for an empty log."""
    return session.scalar(select(func.max(tables.EventRow.seq))) or 0


def waiting_for(session: Session, hook: tables.WebhookRow, after: int) -> Iterator[tables.EventRow]:
    """Yield the entries after a number that a webhook gets, in their order, a few at a time."""
    event = tables.EventRow
    wanted, patterns = actions_of(hook.actions), hook.tasks
    while wanted:
        query = select(event).where(event.seq > after, event.action.in_(wanted))
        rows = session.scalars(query.order_by(event.seq).limit(_BATCH)).all()
        for row in rows:
            kind, subject = row.subject_kind, row.subject
            if not patterns or is_one_of(
                tasks_of(kind, subject, row.detail) or _recorded(session, kind, subject), patterns
            ):
                yield row
        if len(rows) < _BATCH:
            return
        after = rows[-1].seq


def head(session: Session, hook: tables.WebhookRow, after: int) -> tables.EventRow | None:
    """Return the first entry after a number that a webhook gets."""
    return next(waiting_for(session, hook, after), None)


def _recorded(session: Session, kind: str, digest: str) -> Iterator[str]:
    """Yield the tasks of the adapters of a digest, for an entry that names nothing else."""
    task, adapter, fused = tables.TaskRow, tables.AdapterRow, tables.FusedRow
    query = select(task.name).distinct().join(adapter, adapter.task_id == task.id)
    if kind == "adapter":
        yield from session.scalars(query.where(adapter.digest == digest))
    elif kind == "fused":
        extra = tables.FusedExtraRow
        others = select(extra.adapter_id).join(fused, fused.id == extra.fused_id).where(fused.key == digest)
        own = select(fused.adapter_id).where(fused.key == digest)
        yield from session.scalars(query.where(or_(adapter.id.in_(own), adapter.id.in_(others))))
