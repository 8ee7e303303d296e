"""Amending an adapter's record: the new value, and in the log who changed it, from what to what, and why."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from .. import tables
from ..access.roles import require_may_change
from ..database import events
from ..errors import BadInputError
from ..limits import TAGS, require_count
from ..records.adapter import Amended
from ..records.amendments import (
    TAG,
    State,
    amend_row,
    amendment_records,
    changes,
    is_free,
    require_few_amendments,
    state_of,
    text_of,
)
from ..records.references import resolve_adapter

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .correction import Correction

AMENDED = "adapter.amended"


def amend(workspace: Workspace, reference: str, correction: Correction) -> Amended:
    """Correct what is recorded about an adapter; values that are recorded already change and log nothing.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        correction: the right values.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: the correction is empty, a reason is missing, a tag to remove does not exist, or the adapter would
            have too many amendments or tags.
    """
    if correction.is_empty:
        raise BadInputError("it is not said what to amend", hint="fusery amend --help")
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        before = state_of(adapter)
        _require_tags(adapter.name, before, correction)
        changed = changes(before, correction.applied(before))
        if not changed:
            return Amended(adapter.name, adapter.digest, ())
        facts = [field for field, _, _ in changed if not is_free(field)]
        if facts and not correction.reason.strip():
            raise BadInputError(
                f"another {facts[0]} needs a reason", hint="--reason TEXT; tags and notes need none"
            )
        require_may_change(workspace, session, "amendment" if facts else "note or tag", adapter)
        at = time_of_amendment(workspace, session, adapter)
        rows = [
            tables.Amendment(
                field=field,
                before=text_of(was),
                after=text_of(will),
                reason=correction.reason,
                at=at,
                since=at,
                by=workspace.actor,
            )
            for field, was, will in changed
        ]
        require_few_amendments(adapter.name, [*adapter.amendments, *rows])
        amend_row(session, adapter, rows)
        require_count(adapter.name, "tags", TAGS, len(adapter.tags))
        events.record(
            session,
            action=AMENDED,
            kind="adapter",
            subject=adapter.name,
            detail={
                "digest": adapter.digest,
                "changes": [{"field": field, "from": was, "to": will} for field, was, will in changed],
                "reason": correction.reason,
            },
            actor=workspace.actor,
            at=at,
        )
        return Amended(adapter.name, adapter.digest, tuple(amendment_records(rows)))


def _require_tags(name: str, before: State, correction: Correction) -> None:
    """Refuse to take off a tag that is not there: its key is most likely another one."""
    tags = [field.removeprefix(TAG) for field in before if field.startswith(TAG)]
    for field in sorted(correction.clear):
        if field.startswith(TAG) and field not in before:
            there = f"its tags are {', '.join(tags)}" if tags else "it has none"
            raise BadInputError(f"{name} has no tag {field.removeprefix(TAG)!r}", hint=there)


def time_of_amendment(workspace: Workspace, session: Session, adapter: tables.Adapter) -> datetime:
    """Return the time, but never one before the last amendment, even if the clock was set back."""
    now = workspace.database.utcnow(session)
    return max([now, *(row.since for row in adapter.amendments)])
