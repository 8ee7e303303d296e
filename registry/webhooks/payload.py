"""What a receiver is sent: an entry of the log as `fusery events --json` prints it, in the frame of Standard Webhooks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from fusery.storage.secrets import masked

from .. import tables
from ..catalog.journal import events_of
from ..record import Record, described
from ..records.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Record):
    """One event for one webhook."""

    id: str = described("id of the delivery, the same whenever it is tried")
    hook: str = described("name of the webhook")
    type: str = described("the action, such as `alias.moved`")
    timestamp: datetime = described("when it happened", exact=True)
    data: Event = described("the entry of the log")


def delivery_of(session: Session, hook: tables.Webhook, row: tables.Event) -> Delivery:
    """Return what is sent of an entry.

    Raises:
        ValueError: the entry was edited by other means, and cannot be read.
    """
    [event] = events_of(session, [row])
    return Delivery(
        id=f"msg_{hook.uid}_{row.seq}", hook=hook.name, type=event.action, timestamp=event.at, data=event
    )


def body_of(delivery: Delivery) -> bytes:
    """Return the body of a request: JSON, without passwords and tokens in its URLs."""
    return masked(json.dumps(delivery.to_dict(), ensure_ascii=True, allow_nan=False)).encode("ascii")
