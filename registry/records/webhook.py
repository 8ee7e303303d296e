"""The records of webhooks, and of what became of deliveries to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..record import Record, described

State = Literal["active", "failing", "disabled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Record):
    """A receiver of events, and how far the delivery to it has come."""

    name: str = described("its name")
    url: str = described("where events are sent", free=True)
    actions: tuple[str, ...] = described(
        "patterns of those that are sent, such as `alias.moved` and `alias.*`", title="sends", heading="on"
    )
    tasks: tuple[str, ...] = described(
        "patterns of the tasks that they have to be about; empty for events of every task and of none",
        heading="task",
        rare=True,
    )
    private: bool = described("it may be in a private network, if whoever delivers may reach those")
    state: State = described(
        "`active`; `failing` where the last attempt failed; `disabled` where nothing is sent any more"
    )
    position: int = described(
        "number of the entry of the log up to which everything was delivered, passed over, or for others",
        title="up to entry",
    )
    waiting: int = described("events behind that; more than 1,000 are not counted")
    failing: int | None = described(
        "number of the entry that was not taken; None if the last attempt was well",
        title="not taken",
        form="entry {}",
        brief=True,
    )
    attempts: int = described("how often that one was tried", unit="time", words=", tried {}")
    error: str | None = described("the last error", brief=True, free=True, rare=True)
    next_attempt: datetime | None = described("when it is tried again at the earliest", brief=True)
    delivered_at: datetime | None = described(
        "when the last event was taken", title="last delivery", brief=True
    )
    disabled_at: datetime | None = described("since when nothing is sent", title="disabled", brief=True)
    created_at: datetime = described("when it was added", exact=True)
    created_by: str = described("by whom", heading="by")


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
        key: as Standard Webhooks writes it: `whsec_` and Base64.
    """

    name: str = described("name of the webhook")
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedEvent(Record):
    """An event that was passed over."""

    name: str = described("name of the webhook")
    seq: int = described("number of the entry of the log")
    action: str = described("action of the entry")
    subject: str = described("subject of the entry")
    reason: str = described("why it was passed over")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDeliveries(Record):
    """What was delivered to a webhook at one go."""

    name: str = described("name of the webhook")
    delivered: tuple[int, ...] = described("numbers of the entries of the log that it has taken")
    error: str | None = described(
        "why it took no more; None if nothing waits, or somebody else delivers to it"
    )
    next_attempt: datetime | None = described("when it is tried again at the earliest")
    disabled: bool = described("nothing is sent to it any more, since its receiver is gone")
