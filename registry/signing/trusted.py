"""The trust policy: whose keys count, and for which aliases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..dsse.keys import key_id, parse_public_key, public_pem
from ..errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from ..names import parse_slug
from ..records.signature import TrustedKey
from ..records.signatures import SCHEME

if TYPE_CHECKING:
    from ..workspace import Workspace

EVERYTHING = "*#*"
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,128}#[a-z0-9._*?-]{1,128}")
_MOST = 100


def add_key(
    workspace: Workspace, name: str, pem: str, aliases: Sequence[str] = (), *, fused: bool = False
) -> TrustedKey:
    """Let the signatures of a key count.

    Args:
        workspace: the registry's parts.
        name: what the key is called here, such as its owner's name.
        pem: the public key.
        aliases: for which: patterns of `TASK#ALIAS` with `*` and `?`.  The same key under the same name again gets these.
        fused: fused artifacts of other registries count as made here when this key has signed them.

    Raises:
        BadInputError: the name, the key or a pattern is none.
        AlreadyExistsError: the name is another key's, the key has another name, or it was revoked.
    """
    called = parse_slug(name, "key")
    patterns = _patterns(aliases, may_be_none=fused)
    public = parse_public_key(pem.encode(), "the key")
    number = key_id(public)
    key = tables.TrustedKey
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


def _refuse(row: tables.TrustedKey | None, other: tables.TrustedKey | None, name: str) -> None:
    if row is not None and row.revoked_at is not None:
        raise AlreadyExistsError(
            f"this key was trusted as {row.name} and revoked, and is not trusted again",
            hint="fusery trust keygen NAME makes a new one",
        )
    if row is not None and row.name != name:
        raise AlreadyExistsError(f"this key is trusted already, as {row.name}", hint="fusery trust list")
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
    """Let no signature of a key count any more, those made before included: nothing proves when one was made.

    Args:
        workspace: the registry's parts.
        name: the key's, or the beginning of its id.
        reason: for the log.

    Raises:
        UnknownReferenceError: there is no such key.
    """
    with workspace.database.write() as session:
        row = find_key(session, name)
        if row.revoked_at is None:
            now = workspace.database.utcnow(session)
            row.revoked_at, row.revoked_by = now, workspace.actor
            _tell(workspace, session, "key.revoked", row, {"reason": reason}, now)
        return _view(session, row)


def find_key(session: Session, name: str) -> tables.TrustedKey:
    """Return a key by its name or the beginning of its id.

    Raises:
        UnknownReferenceError: there is none.
    """
    key = tables.TrustedKey
    wanted = name.strip().casefold()
    row = session.scalar(select(key).where(key.name == wanted))
    if row is None and len(wanted) >= 8:
        found = session.scalars(
            select(key).where(key.key_id.startswith(wanted, autoescape=True)).limit(2)
        ).all()
        row = found[0] if len(found) == 1 else None
    if row is None:
        raise UnknownReferenceError(f"there is no key {name[:60]!r}", hint="fusery trust list")
    return row


def list_keys(workspace: Workspace) -> list[TrustedKey]:
    """Return all keys, the revoked ones too, by name."""
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.TrustedKey).order_by(tables.TrustedKey.name))
        return [_view(session, row) for row in rows]


def _tell(
    workspace: Workspace,
    session: Session,
    action: str,
    row: tables.TrustedKey,
    detail: dict[str, Any],
    at: Any,
) -> None:
    events.record(
        session,
        action=action,
        kind="key",
        subject=row.name,
        detail={"key_id": row.key_id, **detail},
        actor=workspace.actor,
        at=at,
    )


def _view(session: Session, row: tables.TrustedKey) -> TrustedKey:
    signature = tables.Signature
    made = session.scalar(
        select(func.count(signature.id)).where(signature.key_id == row.key_id, signature.scheme == SCHEME)
    )
    return TrustedKey.from_row(row, aliases=tuple(row.aliases), fused=bool(row.fused), signatures=made or 0)
