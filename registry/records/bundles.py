"""Records of bundles: their places, which were replaced, and the events of their writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fusery.storage.digest import parse_digest
from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import is_keepable
from fusery.storage.manifest import Manifest
from fusery.storage.secrets import without_credentials

from .. import tables
from ..actors import person
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..workspace.workspace import Workspace
from . import BUNDLES, require_count
from .deposit import record_manifest
from .references import resolve_adapter
from .transfer import SentBundle

WRITTEN = "bundle.written"  # what the log calls the writing of a bundle


def note_replaced(workspace: Workspace, place: str) -> None:
    """Note that what was written to a place is there no longer."""
    with workspace.database.write() as session:
        _mark_replaced(session, place)


def _mark_replaced(session: Session, place: str) -> None:
    for bundle in session.scalars(select(tables.BundleRow).where(tables.BundleRow.path == place)):
        bundle.path = f"{place} (replaced)"


def record_bundle(
    session: Session,
    workspace: Workspace,
    *,
    action: str,
    target: str,
    place: str,
    manifest: Manifest,
    adapters: Sequence[tables.AdapterRow],
    fused: tables.FusedRow | None = None,
    detail: Mapping[str, Any],
) -> int:
    """Record a bundle that was written, unless the very same is on record at its place; return the number of its row."""
    bundle = tables.BundleRow
    existing_query = select(bundle.id).where(
        bundle.path == place, bundle.digest == manifest.digest, bundle.target == target
    )
    if (number := session.scalar(existing_query)) is not None:
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
    detail = {**detail, "target": target, "path": place, "tool": f"fusery {version('fusery')}"}
    events.record(session, action, "bundle", manifest.digest, detail, at=now)
    return row.id


_ACTIONS = (WRITTEN, "adapter.exported")
_SENT = "sent"  # the detail of a log entry for a bundle of a client: its path is on the client's machine
_LONGEST = 10_000  # characters of a path, and of the log entry's other details
_LONGEST_TARGET = 32
_LARGEST = 2**62  # bytes of all files
_DETAILS = frozenset({"fused", "adapter", "choices", "plugin", "foreign"})  # texts or null, beside `adapters`


def written_bundle(session: Session, event: tables.EventRow) -> SentBundle | None:
    """Return the bundle of a log entry; None if the entry is not about a written bundle."""
    if event.subject_kind != "bundle" or event.action not in _ACTIONS:
        return None
    detail = json.loads(event.detail)
    bundle = tables.BundleRow
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
        detail={key: value for key, value in detail.items() if key not in ("target", "path", "tool", _SENT)},
    )


def is_remote(session: Session, row: tables.BundleRow) -> bool:
    """Return whether only a client named a bundle's path: it is on another machine, and is never read here."""
    bundle_events = events.history(session, kind="bundle", subject=row.digest)
    details = [json.loads(event.detail) for event in bundle_events if event.action in _ACTIONS]
    sent = [_SENT in detail for detail in details if detail["path"] == row.path]
    return bool(sent) and all(sent)


def record_sent(
    workspace: Workspace,
    bundle: SentBundle,
    *,
    claim: str | None = None,
    require_may_replace: Callable[[], None] = lambda: None,
) -> bool:
    """Record a bundle that a client wrote, and mark the previous bundle at its path as replaced."""
    manifest = _validate(bundle)
    bundle = replace(bundle, path=str(without_credentials(bundle.path)))
    with workspace.database.write() as session:
        rows = session.scalars(select(tables.BundleRow).where(tables.BundleRow.path == bundle.path)).all()
        if any((row.digest, row.target) == (manifest.digest, bundle.target) for row in rows):
            return False
        adapters = [resolve_adapter(session, name) for name in bundle.adapters]
        if len({adapter.id for adapter in adapters}) < len(adapters):
            raise _invalid("adapters")
        packed = tables.BundleAdapterRow
        for adapter in adapters:
            count = session.scalar(select(func.count()).where(packed.adapter_id == adapter.id)) or 0
            require_count(adapter.name, "bundles", BUNDLES, count + 1)
        keys, fused = tables.FusedRow.key, None
        if bundle.fused is not None:  # the fused model that was made here, else the claim
            query = select(tables.FusedRow).where(keys.in_([bundle.fused, claim]))
            fused = session.scalars(query.order_by(keys != bundle.fused)).first()
            if fused is None:
                raise UnknownReferenceError(f"fused model not found: {bundle.fused[:12]}", hint="fusery list")
        if any(person(row.created_by) != person(workspace.actor) for row in rows):
            require_may_replace()
        _mark_replaced(session, bundle.path)
        record_bundle(
            session,
            workspace,
            action=bundle.action,
            target=bundle.target,
            place=bundle.path,
            manifest=manifest,
            adapters=adapters,
            fused=fused,
            detail={**bundle.detail, _SENT: True},
        )
    return True


def _validate(bundle: SentBundle) -> Manifest:
    adapters, sizes = bundle.adapters, [file.size for file in bundle.files]
    validity = {
        "action": bundle.action in _ACTIONS,
        "target": _is_line(bundle.target, _LONGEST_TARGET),
        "path": _is_line(bundle.path, _LONGEST),
        "adapters": bool(adapters) and len(set(adapters)) == len(adapters) and is_keepable(list(adapters)),
        "detail": _is_detail(bundle.detail),
        "files": bool(sizes) and min(sizes) >= 0 and sum(sizes) <= _LARGEST,
    }
    for field, is_valid in validity.items():
        if not is_valid:
            raise _invalid(field)
    try:
        for digest in (*(file.sha256 for file in bundle.files), *filter(None, [bundle.fused])):
            parse_digest(digest)
        return Manifest.of(bundle.files)
    except (ValueError, StorageError) as error:
        raise _invalid("files") from error


def _is_line(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable()


def _is_detail(detail: Mapping[str, object]) -> bool:
    """Return whether all details are texts or null, and `adapters` a list of texts."""
    for key, value in detail.items():
        texts = value if key == "adapters" and isinstance(value, list) else [value]
        nullable = value is None and key in _DETAILS
        is_allowed = key in _DETAILS or key == "adapters"
        if not is_allowed or not (nullable or all(isinstance(text, str) for text in texts)):
            return False
    return is_keepable(dict(detail)) and len(json.dumps(detail)) <= _LONGEST


def _invalid(field: str) -> BadInputError:
    return BadInputError(f"invalid {field} of a bundle", hint="update the client")
