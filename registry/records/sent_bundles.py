"""Bundles that a client wrote: recorded in its local replica, then on the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import parse_digest
from fusery.storage.errors import StorageError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.plaintext import is_keepable
from fusery.storage.secrets import without_credentials

from .. import tables
from ..actors import person
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record
from .bundles import WRITTEN, mark_replaced, record_bundle
from .references import resolve_adapter

if TYPE_CHECKING:
    from ..workspace import Workspace

_ACTIONS = (WRITTEN, "adapter.exported")
"""Actions of log entries for a written bundle or adapter folder."""


_LONGEST = 10_000
"""The maximum length of a path, and of the log entry's other details."""
_LONGEST_TARGET = 32
_LARGEST = 2**62
"""Bytes of all files."""
_DETAILS = frozenset({"fused", "adapter", "choices", "plugin", "foreign"})
"""The texts, or null, that the log says of a bundle; `adapters` is a list of texts."""


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


def record_sent(
    workspace: Workspace,
    bundle: SentBundle,
    *,
    claim: str | None = None,
    require_may_replace: Callable[[], None] = lambda: None,
) -> bool:
    """Record a bundle that a client wrote, and mark the previous bundle at its path as replaced.

    Args:
        workspace: the registry's parts.
        bundle: as the client describes it.
        claim: the key that its fused model has here if another registry's claim is recorded.
        require_may_replace: called before another person's bundle is marked as replaced, to refuse that.

    Returns:
        Whether the bundle is new.

    Raises:
        BadInputError: a value is invalid.
        RoleError: the client may not replace another person's bundle.
        UnknownReferenceError: an adapter or the fused model is not on record.
    """
    manifest = _validate(bundle)
    bundle = replace(bundle, path=str(without_credentials(bundle.path)))
    with workspace.database.write() as session:
        rows = session.scalars(select(tables.Bundle).where(tables.Bundle.path == bundle.path)).all()
        if any((row.digest, row.target) == (manifest.digest, bundle.target) for row in rows):
            return False
        adapters = [resolve_adapter(session, name) for name in bundle.adapters]
        if len({adapter.id for adapter in adapters}) < len(adapters):
            raise _invalid("adapters", "each once")
        fused = None if bundle.fused is None else _find_fused(session, bundle.fused, claim)
        if any(person(row.created_by) != person(workspace.actor) for row in rows):
            require_may_replace()
        mark_replaced(session, bundle.path)
        record_bundle(
            session,
            workspace,
            action=bundle.action,
            target=bundle.target,
            place=bundle.path,
            manifest=manifest,
            adapters=adapters,
            fused=fused,
            detail=bundle.detail,
        )
    return True


def _find_fused(session: Session, key: str, claim: str | None) -> tables.Fused:
    """Return the fused model of a key: the one that was made here, else the claim."""
    fused = tables.Fused
    for known in (key, claim):
        if (row := session.scalar(select(fused).where(fused.key == known))) is not None:
            return row
    raise UnknownReferenceError(f"there is no fused model {key[:12]}", hint="fusery list")


def _validate(bundle: SentBundle) -> Manifest:
    """Return the manifest of a bundle that a client describes.

    Raises:
        BadInputError: a value is invalid.
    """
    if bundle.action not in _ACTIONS:
        raise _invalid("action", f"one of {', '.join(_ACTIONS)}")
    if not 0 < len(bundle.target) <= _LONGEST_TARGET or not bundle.target.isprintable():
        raise _invalid("target", f"1 to {_LONGEST_TARGET} printable characters")
    if not 0 < len(bundle.path) <= _LONGEST or not bundle.path.isprintable():
        raise _invalid("path", f"1 to {_LONGEST:,} printable characters")
    if not bundle.adapters or len(set(bundle.adapters)) < len(bundle.adapters):
        raise _invalid("adapters", "at least one, each once")
    if not is_keepable(list(bundle.adapters)):
        raise _invalid("adapters", "names on record")
    _validate_detail(bundle.detail)
    sizes = [file.size for file in bundle.files]
    if not sizes or min(sizes) < 0 or sum(sizes) > _LARGEST:
        raise _invalid("files", f"at least one, and 0 to {_LARGEST} bytes")
    try:
        for digest in (*(file.sha256 for file in bundle.files), *filter(None, [bundle.fused])):
            parse_digest(digest)
        return Manifest.of(bundle.files)
    except (ValueError, StorageError) as error:
        raise _invalid("files", "relative paths, each once, with SHA-256 digests") from error


def _validate_detail(detail: Mapping[str, object]) -> None:
    """Refuse keys and values that no entry of the log about a bundle has."""
    for key, value in detail.items():
        texts = value if key == "adapters" and isinstance(value, list) else [value]
        known = key in _DETAILS or (key == "adapters" and isinstance(value, list))
        nullable = value is None and key in _DETAILS
        if not known or not (nullable or all(isinstance(text, str) for text in texts)):
            raise _invalid("detail", "what fusery writes to the log; update the client or the server")
    if not is_keepable(dict(detail)) or len(json.dumps(detail)) > _LONGEST:
        raise _invalid("detail", f"text of at most {_LONGEST:,} characters")


def _invalid(field: str, allowed: str) -> BadInputError:
    return BadInputError(f"invalid {field} of a bundle ({allowed})", hint="update the client")
