"""What is on record of bundles: where each one lies, which gave way, and the event of its writing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.manifest import Manifest

from .. import tables
from ..database import events

if TYPE_CHECKING:
    from ..workspace import Workspace


WRITTEN = "bundle.written"
"""What the log calls the writing of a bundle."""


def note_replaced(workspace: Workspace, place: str) -> None:
    """Note that what was written to a place is there no longer."""
    with workspace.database.write() as session:
        mark_replaced(session, place)


def mark_replaced(session: Session, place: str) -> None:
    """Mark the bundles at a path as replaced."""
    bundle = tables.Bundle
    for replaced in session.scalars(select(bundle).where(bundle.path == place)):
        replaced.path = f"{place} (replaced)"


def record_bundle(
    session: Session,
    workspace: Workspace,
    *,
    action: str,
    target: str,
    place: str,
    manifest: Manifest,
    adapters: Sequence[tables.Adapter],
    fused: tables.Fused | None = None,
    detail: Mapping[str, Any],
) -> int:
    """Record a bundle that was written, unless the very same is on record at its place; return the number of its row."""
    from .deposit import record_manifest

    bundle = tables.Bundle
    known = select(bundle.id).where(
        bundle.path == place, bundle.digest == manifest.digest, bundle.target == target
    )
    if (number := session.scalar(known)) is not None:
        return number
    now = workspace.database.utcnow(session)
    row = bundle(
        target=target,
        path=place,
        digest=manifest.digest,
        manifest_id=record_manifest(session, manifest).id,
        fused_id=fused.id if fused else None,
        created_at=now,
        created_by=workspace.actor,
        adapters=list(adapters),
    )
    session.add(row)
    session.flush()
    events.record(
        session,
        action=action,
        kind="bundle",
        subject=manifest.digest,
        detail={**detail, "target": target, "path": place, "tool": f"fusery {version('fusery')}"},
        actor=workspace.actor,
        at=now,
    )
    return row.id


def choices_of(session: Session, digest: str, place: str) -> set[str]:
    """Return by which choices a bundle was written to a place, as `Choices.digest` has them."""
    told = events.history(session, kind="bundle", subject=digest, action=WRITTEN)
    details = [json.loads(event.detail) for event in told]
    return {detail["choices"] for detail in details if detail["path"] == place and "choices" in detail}
