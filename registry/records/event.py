"""Entries of the log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from ..record import Record, described


class WrittenRecord(Record):
    """A record that the transaction of an entry wrote."""

    kind: str = described("kind of the record, such as `adapter` or `alias_move`")
    name: str = described("name of the record")
    digest: str | None = described("digest of the record; None if it was removed")


class Event(Record):
    """An entry of the log."""

    seq: int = described("number of the entry, from 1", heading="entry")
    at: datetime = described("when it happened", exact=True)
    actor: str = described("who did it", heading="by")
    action: str = described("the action, such as `adapter.registered`", heading="event")
    kind: str = described("kind of the record: `adapter`, `base`, `alias` and so on")
    subject: str = described("name or digest of that")
    name: str | None = described("its name; None if unknown", heading="subject", free=True)
    summary: str = described("the event in words, such as the move of an alias", free=True)
    detail: Mapping[str, object] = described("details of the entry, which depend on the action")
    records: tuple[WrittenRecord, ...] = described("records that the transaction wrote")
    hash: str = described("hash of the entry, which the next entry includes")


State = Literal["active", "failing", "disabled"]


class Webhook(Record):
    """A receiver of events, and how far the delivery to it has come."""

    name: str = described("its name")
    url: str = described("where events are sent", free=True)
    actions: tuple[str, ...] = described("patterns, such as `alias.*`", heading="on")
    tasks: tuple[str, ...] = described("patterns of tasks; empty for all events", heading="task", rare=True)
    private: bool = described("the receiver may be in a private network, if the deliverer allows it")
    state: State = described("`active`, `failing` (the last attempt failed) or `disabled`")
    position: int = described("last log entry that is dealt with")
    waiting: int = described("events behind that; more than 1,000 are not counted")
    failing: int | None = described("the entry that failed")
    attempts: int = described("how often that one was tried")
    error: str | None = described("the last error", free=True, rare=True)
    next_attempt: datetime | None = described("when it is tried again at the earliest", rare=True)
    delivered_at: datetime | None = described("when the last one arrived")
    disabled_at: datetime | None = described("since when nothing is sent")
    created_at: datetime = described("when it was added", exact=True)
    created_by: str = described("by whom", heading="by")


class AddedWebhook(Webhook):
    """A webhook that was added."""

    key: str | None = described("key to verify events with; None if it is not known here", repr=False)


class WebhookKey(Record):
    """The key that the receiver of a webhook verifies events with."""

    name: str = described("name of the webhook")
    key: str = described("as Standard Webhooks writes it: `whsec_` and Base64", repr=False)


class SkippedEvent(Record):
    """An event that was passed over."""

    name: str = described("name of the webhook")
    seq: int = described("number of the entry of the log")
    action: str = described("action of the entry")
    subject: str = described("subject of the entry")
    reason: str = described("why it was passed over")


class WebhookDeliveries(Record):
    """What was delivered to a webhook at one go."""

    name: str = described("name of the webhook")
    delivered: tuple[int, ...] = described("numbers of the entries of the log that it has taken")
    error: str | None = described("why it took no more; None if nothing waits")
    next_attempt: datetime | None = described("when it is tried again at the earliest")
    disabled: bool = described("nothing is sent to it any more, since its receiver is gone")
