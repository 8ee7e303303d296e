"""Log entries about items received from another registry: what was new, and the registry that sent it.

An entry refers to the entries of that registry's log by their hashes, each once: their text would grow with every push.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from .. import tables
from ..admission.plugged import took_part
from ..database import events
from .arriving import Seen
from .finding import Row
from .package import Adapter, Item

if TYPE_CHECKING:
    from ..workspace import Workspace

RECEIVED = "received"
"""The second word of the actions: `adapter.received`."""


def record_arrival(
    workspace: Workspace,
    session: Session,
    item: Item,
    seen: Seen,
    row: Row,
    origin: str,
    added: list[str],
    now: datetime,
) -> None:
    """Record a received item in the log.

    Args:
        workspace: the receiving registry.
        session: of the transaction that records it.
        item: the received item.
        seen: the facts computed from its bytes.
        row: its row here.
        origin: the id of the registry it came from.
        added: the parts that were new, in words of the log.
        now: the time of the transaction.
    """
    subject = row.digest
    if isinstance(row, tables.Adapter):
        subject = row.name
    elif isinstance(row, tables.Fused):
        subject = row.key
    last = item.events[-1] if item.events else None
    events.record(
        session,
        action=f"{item.kind}.{RECEIVED}",
        kind=item.kind,
        subject=subject,
        detail={
            "digest": item.digest,
            "added": added,
            # Fields that were declared differently there.
            **({"corrected": list(seen.corrected)} if seen.corrected else {}),
            **({"plugins": others} if isinstance(item, Adapter) and (others := took_part()) else {}),
            "origin": {
                "registry": origin,
                "name": item.name,
                "event": last["hash"] if last else None,
                "events": _new_events(session, item, subject, row_is_new="record" in added),
            },
        },
        actor=workspace.actor,
        at=now,
    )


def _new_events(session: Session, item: Item, subject: str, *, row_is_new: bool) -> list[str]:
    """Return the hashes of the other registry's entries about an item that no entry here refers to yet, oldest first."""
    earlier = (
        []
        if row_is_new
        else events.history(session, kind=item.kind, subject=subject, action=f"{item.kind}.{RECEIVED}")
    )
    known = {str(each) for entry in earlier for each in json.loads(entry.detail)["origin"].get("events", ())}
    return [entry["hash"] for entry in item.events if entry["hash"] not in known]
