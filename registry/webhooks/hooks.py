"""Webhooks on record: adding, listing, showing and removing them, and the keys that their receivers need."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError

from .. import tables
from ..database import events
from ..errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from ..names import parse_slug
from ..records.webhook import AddedWebhook, State, Webhook, WebhookKey
from .addresses import Target, is_named_private, parse_url
from .deliverer import PRIVATE, Deliverer
from .filters import parse_actions, parse_tasks, patterns_of
from .notifiers import require_notifier
from .signing_key import derive, key_text
from .waiting import count, head, newest

if TYPE_CHECKING:
    from ..workspace import Workspace

_MOST = 100


def add(
    workspace: Workspace,
    url: str,
    actions: Sequence[str],
    *,
    tasks: Sequence[str] = (),
    name: str | None = None,
    private: bool = False,
    deliverer: Deliverer | None = None,
) -> AddedWebhook:
    """Have events sent to a receiver from now on.

    Args:
        workspace: the registry's parts.
        url: of the receiver, http or https, or of a plugin's scheme, without credentials: they would be on record.
        actions: which events: actions of the log, and patterns with `*` and `?`.
        tasks: only about these tasks, or patterns of them; none for events of every task and of none.
        name: what it is called; by default its host.
        private: it may be in a private network.
        deliverer: what whoever delivers knows and may do; by default what the environment says.

    Raises:
        BadInputError: the URL, a pattern or the name is none, or private networks may not be reached from here.
        AlreadyExistsError: the name is another's.
        PluginError: the plugin for the URL's scheme cannot be used.
    """
    known = deliverer or Deliverer.load()
    target = parse_url(url)
    require_notifier(target)
    _require_reachable(target, private, known)
    values = {"actions": parse_actions(actions), "tasks": parse_tasks(tasks), "url": target.url}
    given = parse_slug(name, "webhook") if name is not None else None
    hook, delivery = tables.Webhook, tables.WebhookDelivery
    with workspace.database.write() as session:
        taken = set(session.scalars(select(hook.name)))
        if given in taken:
            raise AlreadyExistsError(
                f"{given} is the name of another webhook", hint="fusery webhook list; or choose another name"
            )
        if len(taken) >= _MOST:
            raise BadInputError(f"there are {_MOST} webhooks already", hint="fusery webhook remove NAME")
        row = hook(uid=uuid.uuid4().hex, name=given or _free(target.host, taken), private=private, **values)
        row.created_at, row.created_by = workspace.database.utcnow(session), workspace.actor
        row.delivery = delivery(position=newest(session), attempts=0)
        session.add(row)
        session.flush()
        tell(workspace, session, "webhook.added", row, {**values, "private": private}, row.created_at)
        return AddedWebhook(**_facts(session, row), key=_key(row, known) if known.secrets else None)


def _require_reachable(target: Target, private: bool, known: Deliverer) -> None:
    if private and not known.private:
        raise BadInputError(
            "private networks may not be reached by webhooks here",
            hint=f"whoever delivers allows it in its own environment: export {PRIVATE}=1",
        )
    if not private and is_named_private(target.host):
        raise BadInputError(
            f"{target.host[:60]} is in a private network",
            hint="--allow-private, if whoever delivers may go there",
        )


def _free(host: str, taken: set[str]) -> str:
    """Return a name for the webhook of a host that is not taken yet."""
    plain = re.sub(r"[^a-z0-9.-]+", "-", host.casefold()).strip(".-")[:100].rstrip(".-") or "webhook"
    try:
        plain = parse_slug(plain, "webhook")
    except BadInputError:
        plain = "webhook"
    names = (plain if number == 1 else f"{plain}-{number}" for number in range(1, _MOST + 2))
    return next(name for name in names if name not in taken)


def list_hooks(workspace: Workspace) -> list[Webhook]:
    """Return all webhooks, by name."""
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.Webhook).order_by(tables.Webhook.name)).all()
        return [hook_record(session, row) for row in rows]


def unspoken(workspace: Workspace) -> Iterator[tuple[str, FuseryError]]:
    """Yield the names of webhooks that nothing here sends to, such as those of a plugin that is gone, and what is in the way."""
    hook = tables.Webhook
    with workspace.database.read() as session:
        found = session.execute(select(hook.name, hook.url).order_by(hook.name)).all()
    for name, url in found:
        try:
            parse_url(str(url))
        except FuseryError as error:
            yield name, error


def show(workspace: Workspace, name: str) -> Webhook:
    """Return a webhook: how far it has come, what waits, and what went wrong.

    Raises:
        UnknownReferenceError: there is no such webhook.
    """
    with workspace.database.read() as session:
        return hook_record(session, find(session, name))


def remove(workspace: Workspace, name: str, *, reason: str = "") -> Webhook:
    """Send nothing to a receiver any more, and return what the webhook was.

    Args:
        workspace: the registry's parts.
        name: of the webhook.
        reason: for the log.

    Raises:
        UnknownReferenceError: there is no such webhook.
    """
    with workspace.database.write() as session:
        row = find(session, name)
        shown = hook_record(session, row)
        said = {"actions": row.actions, "tasks": row.tasks, "url": row.url, "reason": reason}
        session.delete(row)
        tell(workspace, session, "webhook.removed", row, said)
        return shown


def signing_key(workspace: Workspace, name: str, *, deliverer: Deliverer | None = None) -> WebhookKey:
    """Return the key that the receiver of a webhook knows the events by.

    Args:
        workspace: the registry's parts.
        name: of the webhook.
        deliverer: what whoever delivers knows; by default what the environment says.

    Raises:
        UnknownReferenceError: there is no such webhook.
        NoWebhookSecretError: the secret that keys are made of is not known here.
    """
    known = deliverer or Deliverer.load()
    with workspace.database.read() as session:
        row = find(session, name)
        return WebhookKey(name=row.name, key=_key(row, known))


def _key(row: tables.Webhook, known: Deliverer) -> str:
    return key_text(derive(known.require_secrets()[0], row.uid, row.url))


def find(session: Session, name: str) -> tables.Webhook:
    """Return a webhook by its name.

    Raises:
        UnknownReferenceError: there is none.
    """
    row = session.scalar(select(tables.Webhook).where(tables.Webhook.name == name.strip().casefold()))
    if row is None:
        raise UnknownReferenceError(f"there is no webhook {name[:60]!r}", hint="fusery webhook list")
    return row


def tell(
    workspace: Workspace,
    session: Session,
    action: str,
    row: tables.Webhook,
    detail: Mapping[str, Any],
    at: datetime | None = None,
) -> None:
    """Append to the log what was done to a webhook."""
    events.record(
        session,
        action=action,
        kind="webhook",
        subject=row.name,
        detail=detail,
        actor=workspace.actor,
        at=at,
    )


def hook_record(session: Session, row: tables.Webhook) -> Webhook:
    """Return the record of a webhook."""
    return Webhook(**_facts(session, row))


def _facts(session: Session, row: tables.Webhook) -> dict[str, Any]:
    delivery = delivery_to(row)
    first = head(session, row, delivery.position) if delivery.attempts else None
    return {
        "name": row.name,
        "url": row.url,
        "actions": tuple(patterns_of(row.actions)),
        "tasks": tuple(patterns_of(row.tasks)),
        "private": row.private,
        "state": _state(delivery),
        "position": delivery.position,
        "waiting": count(session, row, delivery.position),
        "failing": first.seq if first is not None else None,
        "attempts": delivery.attempts,
        "error": delivery.error,
        "next_attempt": delivery.next_at,
        "delivered_at": delivery.delivered_at,
        "disabled_at": delivery.disabled_at,
        "created_at": row.created_at,
        "created_by": row.created_by,
    }


def delivery_to(row: tables.Webhook) -> tables.WebhookDelivery:
    """Return how far the delivery to a webhook has come; where somebody removed that, it is disabled."""
    found: tables.WebhookDelivery | None = row.delivery
    return found or tables.WebhookDelivery(position=0, attempts=0, disabled_at=row.created_at)


def _state(delivery: tables.WebhookDelivery) -> State:
    if delivery.disabled_at is not None:
        return "disabled"
    return "failing" if delivery.attempts else "active"
