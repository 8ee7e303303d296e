"""Bundles that a client wrote: recorded in its local replica, then on the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.secrets import without_credentials

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record
from .bundles import WRITTEN, note_replaced, record_bundle
from .references import resolve_adapter

if TYPE_CHECKING:
    from ..workspace import Workspace

_ACTIONS = (WRITTEN, "adapter.exported")
"""Actions of log entries for a written bundle or adapter folder."""


_LONGEST = 10_000
"""The maximum length of a path, and of the log entry's other details."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentBundle(Record):
    """A bundle that a client wrote.

    Attributes:
        action: action of its log entry.
        target: its target, such as `vllm`.
        path: its path or URL.
        files: path, size in bytes and SHA-256 of each file.
        adapters: names of the adapters in it.
        fused: key of the fused model in it; None without one.
        detail: other details of its log entry.
    """

    action: str
    target: str
    path: str
    files: tuple[FileEntry, ...]
    adapters: tuple[str, ...]
    fused: str | None
    detail: Mapping[str, object]


def written_bundle(session: Session, event: tables.Event) -> SentBundle | None:
    """Return the bundle of a log entry; None if the entry is not about a written bundle."""
    if event.subject_kind != "bundle" or event.action not in _ACTIONS:
        return None
    detail = json.loads(event.detail)
    bundle = tables.Bundle
    query = select(bundle).where(bundle.digest == event.subject, bundle.target == detail.get("target"))
    row = session.scalars(query.order_by(bundle.id.desc())).first()
    if row is None or "path" not in detail:
        return None
    return SentBundle(
        action=event.action,
        target=row.target,
        path=detail["path"],
        files=row.manifest.value.files,
        adapters=tuple(adapter.name for adapter in row.adapters),
        fused=row.fused.key if row.fused is not None else None,
        detail={key: value for key, value in detail.items() if key not in ("target", "path", "tool")},
    )


def record_sent(workspace: Workspace, bundle: SentBundle) -> bool:
    """Record a bundle that a client wrote, and mark earlier bundles at its path as replaced.

    Raises:
        BadInputError: the bundle is invalid.
        UnknownReferenceError: an adapter or fused model in it is not registered.
    """
    if bundle.action not in _ACTIONS or not bundle.files:
        raise BadInputError("invalid bundle (unknown action, or no files)", hint="update the client")
    if len(bundle.path) > _LONGEST or len(json.dumps(bundle.detail)) > _LONGEST:
        raise BadInputError(
            f"path or details of the bundle are too long (at most {_LONGEST:,} characters)",
            hint="give a shorter path",
        )
    bundle = replace(bundle, path=str(without_credentials(bundle.path)))
    manifest = Manifest.of(bundle.files)
    table = tables.Bundle
    with workspace.database.read() as session:
        known = session.scalar(
            select(table.id).where(
                table.path == bundle.path, table.digest == manifest.digest, table.target == bundle.target
            )
        )
    if known is not None:
        return False
    note_replaced(workspace, bundle.path)
    with workspace.database.write() as session:
        fused = None
        if bundle.fused is not None:
            fused = session.scalar(select(tables.Fused).where(tables.Fused.key == bundle.fused))
            if fused is None:
                raise UnknownReferenceError(f"fused model not found: {bundle.fused[:12]}", hint="fusery list")
        record_bundle(
            session,
            workspace,
            action=bundle.action,
            target=bundle.target,
            place=bundle.path,
            manifest=manifest,
            adapters=[resolve_adapter(session, name) for name in bundle.adapters],
            fused=fused,
            detail=bundle.detail,
        )
    return True
