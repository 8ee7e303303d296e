"""The trust policy: whose keys count, and for which aliases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..dsse import key_id, parse_public_key, public_pem
from ..errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from ..names import parse_slug
from ..records.trust import TrustedKey
from ..records.views import SCHEME

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

EVERYTHING = "*#*"
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,128}#[a-z0-9._*?-]{1,128}")
_MOST = 100


def add_key(
    workspace: Workspace, name: str, pem: str, aliases: Sequence[str] = (), *, fused: bool = False
) -> TrustedKey:
    """Trust a key.

    Args:
        aliases: patterns of `TASK#ALIAS` with `*` and `?`; those of a trusted key are replaced.
        fused: fused models of other registries count as made here if this key has signed them.
    """
    called = parse_slug(name, "key")
    patterns = _patterns(aliases, may_be_none=fused)
    public = parse_public_key(pem.encode(), "the key")
    number = key_id(public)
    key = tables.TrustedKeyRow
    with workspace.database.write() as session:
        row = session.scalar(select(key).where(key.key_id == number))
        other = session.scalar(select(key).where(key.name == called))
        _refuse(row, other, called)
        now = workspace.database.utcnow(session)
        if row is None:
            row = key(key_id=number, name=called, public_key=public_pem(public), created_at=now)
            row.created_by = workspace.actor
            session.add(row)
        elif (row.aliases, bool(row.fused)) == (patterns, fused):
            return _view(session, row)
        row.aliases, row.fused = patterns, fused or None
        _tell(workspace, session, "key.trusted", row, {"aliases": patterns, "fused": fused}, now)
        return _view(session, row)


def _refuse(row: tables.TrustedKeyRow | None, other: tables.TrustedKeyRow | None, name: str) -> None:
    if row is not None and row.revoked_at is not None:
        raise AlreadyExistsError(
            f"this key was trusted as {row.name} and revoked, and is not trusted again",
            hint="fusery admin trust keygen NAME makes a new one",
        )
    if row is not None and row.name != name:
        raise AlreadyExistsError(
            f"this key is trusted already, as {row.name}", hint="fusery admin trust list"
        )
    if other is not None and other is not row:
        raise AlreadyExistsError(f"{name} is the name of another key", hint="choose another name")


def _patterns(aliases: Sequence[str], *, may_be_none: bool) -> list[str]:
    folded = sorted({alias.strip().casefold() for alias in aliases})
    for alias in folded:
        if not _PATTERN.fullmatch(alias):
            raise BadInputError(
                f"{alias[:60]!r} is no pattern for aliases", hint="--for 'course_rec#prod', or --for '*#prod'"
            )
    if not (folded or may_be_none) or len(folded) > _MOST:
        raise BadInputError(
            "a key is trusted for 1 to 100 patterns of aliases, or for fused artifacts of other registries",
            hint="--for 'course_rec#prod', or --fused",
        )
    return folded


def revoke_key(workspace: Workspace, name: str, *, reason: str = "") -> TrustedKey:
    """Revoke a key, also for signatures made before: nothing proves when one was made."""
    with workspace.database.write() as session:
        row = find_key(session, name)
        if row.revoked_at is None:
            now = workspace.database.utcnow(session)
            row.revoked_at, row.revoked_by = now, workspace.actor
            _tell(workspace, session, "key.revoked", row, {"reason": reason}, now)
        return _view(session, row)


def find_key(session: Session, name: str) -> tables.TrustedKeyRow:
    """Return a key by its name or the beginning of its id."""
    key = tables.TrustedKeyRow
    wanted = name.strip().casefold()
    row = session.scalar(select(key).where(key.name == wanted))
    if row is None and len(wanted) >= 8:
        found = session.scalars(
            select(key).where(key.key_id.startswith(wanted, autoescape=True)).limit(2)
        ).all()
        row = found[0] if len(found) == 1 else None
    if row is None:
        raise UnknownReferenceError(f"there is no key {name[:60]!r}", hint="fusery admin trust list")
    return row


def list_keys(workspace: Workspace) -> list[TrustedKey]:
    """Return all keys, the revoked ones too, by name."""
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.TrustedKeyRow).order_by(tables.TrustedKeyRow.name))
        return [_view(session, row) for row in rows]


def _tell(
    workspace: Workspace,
    session: Session,
    action: str,
    row: tables.TrustedKeyRow,
    detail: dict[str, Any],
    at: Any,
) -> None:
    events.record(session, action, "key", row.name, {"key_id": row.key_id, **detail}, at=at)


def _view(session: Session, row: tables.TrustedKeyRow) -> TrustedKey:
    signature = tables.SignatureRow
    made = session.scalar(
        select(func.count(signature.id)).where(signature.key_id == row.key_id, signature.scheme == SCHEME)
    )
    return TrustedKey.from_row(row, fused=bool(row.fused), signatures=made or 0)
