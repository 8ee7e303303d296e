"""The records of webhooks, and of what became of deliveries to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..record import EXACT, Record

State = Literal["active", "failing", "disabled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Record):
    """A receiver of events, and how far the delivery to it has come.

    Attributes:
        name: what it is called.
        url: where events are sent.
        actions: patterns of those that are sent, such as `alias.moved` and `alias.*`.
        tasks: patterns of the tasks that they have to be about; empty for events of every task and of none.
        private: it may be in a private network, if whoever delivers may reach those.
        state: `active`; `failing` where the last attempt failed; `disabled` where nothing is sent any more.
        position: number of the entry of the log up to which everything was delivered, passed over, or for others.
        waiting: events behind that; more than 1,000 are not counted.
        failing: number of the entry that was not taken; None if the last attempt was well.
        attempts: how often that one was tried.
        error: what went wrong the last time.
        next_attempt: when it is tried again at the earliest.
        delivered_at: when the last event was taken.
        disabled_at: since when nothing is sent.
        created_at: when it was added.
        created_by: by whom.
    """

    name: str
    url: str
    actions: tuple[str, ...]
    tasks: tuple[str, ...]
    private: bool
    state: State
    position: int
    waiting: int
    failing: int | None
    attempts: int
    error: str | None
    next_attempt: datetime | None
    delivered_at: datetime | None
    disabled_at: datetime | None
    created_at: datetime = field(metadata=EXACT)
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedWebhook(Webhook):
    """A webhook that was added.

    Attributes:
        key: that its receiver knows the events by; None where the secret of whoever delivers is not known here.
    """

    key: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookKey(Record):
    """The key that the receiver of a webhook knows the events by.

    Attributes:
        name: of the webhook.
        key: as Standard Webhooks writes it: `whsec_` and Base64.
    """

    name: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedEvent(Record):
    """An event that was passed over.

    Attributes:
        name: of the webhook.
        seq: number of the entry of the log.
        action: of the entry.
        subject: of the entry.
        reason: why it was passed over.
    """

    name: str
    seq: int
    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDeliveries(Record):
    """What was delivered to a webhook at one go.

    Attributes:
        name: of the webhook.
        delivered: numbers of the entries of the log that it has taken.
        error: why it took no more; None if nothing waits, or somebody else delivers to it.
        next_attempt: when it is tried again at the earliest.
        disabled: nothing is sent to it any more, since its receiver is gone.
    """

    name: str
    delivered: tuple[int, ...]
    error: str | None
    next_attempt: datetime | None
    disabled: bool
