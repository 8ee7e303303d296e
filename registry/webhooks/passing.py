"""What people do about a delivery that fails: have it tried now, or pass the event over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..errors import BadInputError
from ..records.webhook import SkippedEvent, Webhook
from .delivering import Manner, deliver, moved
from .hooks import delivery_to, find, hook_record, show, tell
from .waiting import head

if TYPE_CHECKING:
    from ..workspace import Workspace


def retry(
    workspace: Workspace, name: str, *, manner: Manner | None = None, reporter: Reporter = SILENT
) -> Webhook:
    """Try now what a webhook waits for, also one that was disabled; return what it is afterwards.

    Where the secret that signs is not known, whoever delivers tries it at the next look.

    Args:
        workspace: the registry's parts.
        name: of the webhook.
        manner: how it is delivered; by default as the environment says.
        reporter: told of what was not delivered.

    Raises:
        UnknownReferenceError: there is no such webhook.
    """
    how = manner or Manner()
    with workspace.database.write() as session:
        row = find(session, name)
        delivery = row.delivery = delivery_to(row)
        if delivery.disabled_at is not None:
            tell(workspace, session, "webhook.enabled", row, {"url": row.url})
        # The error stays until the next attempt says otherwise.
        delivery.next_at = delivery.disabled_at = None
        if not how.deliverer.secrets:
            return hook_record(session, row)
    deliver(workspace, name, manner=how, reporter=reporter)
    return show(workspace, name)


def skip(workspace: Workspace, name: str, *, reason: str) -> SkippedEvent:
    """Pass over the first event that a webhook waits for, and log it; return which.

    Args:
        workspace: the registry's parts.
        name: of the webhook.
        reason: why, for the log.

    Raises:
        UnknownReferenceError: there is no such webhook.
        BadInputError: it waits for nothing, or no reason is given.
    """
    if not reason.strip():
        raise BadInputError(
            "an event is passed over for a reason", hint="--reason 'the receiver cannot read it'"
        )
    with workspace.database.write() as session:
        row = find(session, name)
        position = delivery_to(row).position
        entry = head(session, row, position)
        if entry is None:
            raise BadInputError(f"{row.name} waits for no event", hint=f"fusery webhook show {row.name}")
        moved(session, row.id, position, entry.seq)
        skipped = SkippedEvent(
            name=row.name, seq=entry.seq, action=entry.action, subject=entry.subject, reason=reason
        )
        said = {"seq": entry.seq, "action": entry.action, "hash": entry.hash, "reason": reason}
        tell(workspace, session, "webhook.skipped", row, said)
        return skipped
