"""The log as people ask for it: about one thing, since a day, the newest so many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from . import events
from .errors import BadInputError, UnknownReferenceError
from .moments import parse_moment
from .names import Reference
from .resolve import resolve_any

if TYPE_CHECKING:
    from .workspace import Workspace


def journal(
    workspace: Workspace,
    *,
    reference: str | None = None,
    since: str | None = None,
    action: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return entries of the log, oldest first: `seq`, `at`, `actor`, `action`, `kind`, `subject`, `detail`, `hash`.

    `records` are what the entry's transaction wrote: each `kind`, `name` and `digest`, null where it was removed.

    Args:
        workspace: the registry's parts.
        reference: only about this adapter, base model, fused artifact or alias (`task#alias`).
        since: only from this moment on.
        action: only of this action, such as `adapter.registered`.
        limit: only the newest so many.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: that is no moment.
    """
    moment = parse_moment(since) if since is not None else None
    with workspace.database.read() as session:
        kind, subject = _subject(session, reference) if reference is not None else (None, None)
        found = events.history(session, kind=kind, subject=subject, action=action, since=moment, limit=limit)
        return [
            {
                "seq": event.seq,
                "at": event.at.isoformat(),
                "actor": event.actor,
                "action": event.action,
                "kind": event.subject_kind,
                "subject": event.subject,
                "detail": json.loads(event.detail),
                "records": _records(event.seals),
                "hash": event.hash,
            }
            for event in found
        ]


def _records(seals: str | None) -> list[dict[str, Any]]:
    found = json.loads(seals) if seals is not None else []
    return [{"kind": kind, "name": name, "digest": digest} for kind, _, name, digest in found]


def _subject(session: Session, text: str) -> tuple[str, str]:
    try:
        reference = Reference.parse(text)
    except BadInputError:
        reference = None
    if reference is not None and reference.kind == "alias":
        subject = f"{reference.task}#{reference.value}"
        if not events.history(session, kind="alias", subject=subject, limit=1):
            raise UnknownReferenceError(f"there is no alias {text!r}", hint="fusery alias list")
        return "alias", subject
    found = resolve_any(session, text)
    if found.adapter is not None:
        return "adapter", found.adapter.name
    if found.base is not None:
        return "base", found.base.digest
    assert found.fused is not None
    return "fused", found.fused.key
