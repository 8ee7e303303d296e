"""Tokens of a server's users, and the roles: what each lets its bearer do.

A secret is 32 random bytes, so that its SHA-256 needs no slow hash.  The database holds only that digest, by which a token is
looked up: the time that this takes reveals nothing about a secret.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_bytes

from .. import tables
from ..actors import person
from ..database import Database, events
from ..errors import AlreadyExistsError, BadInputError, InvalidTokenError, RoleError, UnknownReferenceError
from ..names import parse_slug
from ..parsing import parse_expiry
from ..workspace.workspace import Workspace
from .trust import Identity, NewToken, OwnIdentity, Role, State, Token

Thing = tables.AdapterRow | tables.BaseModelRow | tables.CalibrationRow | tables.FusedRow

ROLES: Sequence[Role] = get_args(Role)  # from the one that may do least: each may do what those before it may

MEANINGS: Mapping[Role, str] = {
    "reader": "read records and download files",
    "publisher": "do what a reader may, register adapters, and promote to unguarded aliases",
    "approver": "do what a publisher may, approve, roll back, yank, and promote to guarded aliases",
    "admin": "do what an approver may, set rules, and manage tokens and keys",
}
"""What each may do, in words."""

PARTS: Mapping[str, tuple[Role, Role]] = {
    "note or tag": ("publisher", "publisher"),
    "yank": ("approver", "approver"),
    **dict.fromkeys(
        ("amendment", "evaluation", "withdrawn evaluation", "signature", "calibration"),
        ("publisher", "approver"),
    ),
}
"""The roles that a sender needs to change a part of a record on a server: their own record, and another's.

A record is the sender's own if they registered or first pushed it, a withdrawn evaluation if they recorded it.  A signature
by a trusted key needs the role of a publisher only.
"""

_FIRST = {
    "adapter": ("adapter.registered", "adapter.received"),
    "base": ("base.added", "base.received"),
    "calibration": ("calibration.received",),
    "fused": ("fused.made", "fused.received"),
}
"""The log's actions by which a record enters a registry, by its kind."""


def allows(role: Role, needed: Role) -> bool:
    """Tell whether who has a role may do what another one is needed for."""
    return ROLES.index(role) >= ROLES.index(needed)


def parse_role(text: str) -> Role:
    """Return a role by its name."""
    for role in ROLES:
        if role == text.strip().casefold():
            return role
    raise BadInputError(f"{text[:60]!r} is not a role", hint=f"one of {', '.join(ROLES)}")


def may_change(workspace: Workspace, session: Session, part: str, row: Thing) -> bool:
    """Return whether a package's sender may change a part (of `PARTS`) of a record; without a role, always."""
    if not workspace.role:
        return True
    own = person(owner_of(session, row)) == person(workspace.actor)
    return has_role(workspace, PARTS[part][0 if own else 1])


def has_role(workspace: Workspace, role: Role) -> bool:
    """Return whether the actor may do what a role may; the operator of a registry may do everything."""
    return not workspace.role or allows(parse_role(workspace.role), role)


def require_may_change(workspace: Workspace, session: Session, part: str, row: Thing) -> None:
    """Refuse a change of a part (of `PARTS`) of a record that the role does not allow."""
    if not may_change(workspace, session, part, row):
        require_role(workspace, PARTS[part][1], f"another's {part}")


def require_role(workspace: Workspace, role: Role, change: str) -> None:
    """Refuse what the role does not allow."""
    if not has_role(workspace, role):
        raise role_error(workspace.actor, workspace.role, change, role)


def role_error(actor: str, role: str, change: str, needed: Role) -> RoleError:
    """Return the error for a change that needs another role."""
    message = f"{actor} has the role of {role}, and {change} needs {needed}"
    return RoleError(message, hint=f"ask an admin for a token with the role of {needed}")


def owner_of(session: Session, row: Thing) -> str:
    """Return who registered or made a record here, or first pushed or pulled it; `created_by` may be another registry's claim."""
    subject, kind = row.digest, row.__tablename__.removesuffix("_model")
    if isinstance(row, tables.AdapterRow):
        subject = row.name
    elif isinstance(row, tables.FusedRow):
        subject = row.key
    event = tables.EventRow
    query = select(event.actor).where(
        event.subject_kind == kind, event.subject == subject, event.action.in_(_FIRST[kind])
    )
    return session.scalars(query.order_by(event.seq).limit(1)).first() or row.created_by


DEFAULT_EXPIRY = "90d"  # how long a token is valid where nobody says otherwise

_PREFIX = "fusery_"
_SECRET = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")


def create(workspace: Workspace, name: str, role: str, expires: str = DEFAULT_EXPIRY) -> NewToken:
    """Make a token, and return it with its secret, which is not recorded."""
    called, may = _called(name), parse_role(role)
    secret = _PREFIX + secrets.token_urlsafe(32)
    with workspace.database.write() as session:
        now = workspace.database.utcnow(session)
        until = parse_expiry(expires, now=now)
        newest = _newest(session, called)
        if newest is not None and newest.revoked_at is None:
            hint = f"fusery admin token revoke {called}"
            raise AlreadyExistsError(f"token {called} already exists", hint=hint)
        row = tables.TokenRow(
            name=called,
            role=may,
            digest=digest_bytes(secret.encode()),
            created_at=now,
            created_by=workspace.actor,
            expires_at=until,
        )
        session.add(row)
        expiry = None if until is None else until.isoformat(timespec="seconds")
        _log(session, "token.created", row, {"role": may, "expires": expiry}, now)
        return NewToken.extending(_record(row, now), secret=secret)


def revoke(workspace: Workspace, name: str, *, reason: str = "") -> Token:
    """Let no server take a token any more, and return it; a second time changes nothing."""
    called = _called(name)
    with workspace.database.write() as session:
        now = workspace.database.utcnow(session)
        row = _newest(session, called)
        if row is None:
            raise UnknownReferenceError(f"there is no token {called}", hint="fusery admin token list")
        if row.revoked_at is None:
            row.revoked_at, row.revoked_by = now, workspace.actor
            _log(session, "token.revoked", row, {"reason": reason}, now)
        return _record(row, now)


def own(workspace: Workspace) -> OwnIdentity:
    """Return who is at work: the bearer of a token, or on a registry of this machine its operator."""
    role = parse_role(workspace.role) if workspace.role else "admin"
    registry = workspace.identity
    with workspace.database.read() as session:
        row = _newest(session, workspace.actor) if workspace.authenticated else None
        expires = None if row is None or row.revoked_at is not None else row.expires_at
    return OwnIdentity(
        name=workspace.actor, role=role, expires_at=expires, registry=registry, version=version("fusery")
    )


def list_tokens(workspace: Workspace, *, revoked: bool = False) -> list[Token]:
    """Return the tokens by name, expired ones too; with `revoked` also revoked ones."""
    token = tables.TokenRow
    query = select(token).order_by(token.name, token.id)
    if not revoked:
        query = query.where(token.revoked_at.is_(None))
    with workspace.database.read() as session:
        now = workspace.database.utcnow(session)
        return [_record(row, now) for row in session.scalars(query)]


def authenticate(workspace: Workspace, secret: str) -> Identity:
    """Return the identity of a secret; every failure is an `InvalidTokenError` with the same message."""
    if not _SECRET.fullmatch(secret):
        raise InvalidTokenError("unknown")
    token = tables.TokenRow
    query = select(token.name, token.role, token.expires_at, token.revoked_at, Database.clock())
    with workspace.database.read() as session:
        row = session.execute(query.where(token.digest == digest_bytes(secret.encode()))).first()
    if row is None:
        raise InvalidTokenError("unknown")
    name, role, expires_at, revoked_at, now = row
    state = _state(revoked_at, expires_at, datetime.fromtimestamp(now, UTC))
    if state != "active":
        raise InvalidTokenError(state, name)
    return Identity(name=name, role=parse_role(role), expires_at=expires_at)


def _called(name: str) -> str:
    if _SECRET.fullmatch(name.strip()):  # an error would repeat it, and a log of the shell has it already
        raise BadInputError("this is the secret of a token, and not its name", hint="fusery admin token list")
    return parse_slug(name, "token")


def _newest(session: Session, name: str) -> tables.TokenRow | None:
    """Return the token that is not revoked, else the newest one."""
    token = tables.TokenRow
    query = select(token).where(token.name == name)
    return session.scalars(query.order_by(token.revoked_at.is_not(None), token.id.desc())).first()


def _log(
    session: Session, action: str, row: tables.TokenRow, detail: Mapping[str, object], at: datetime
) -> None:
    # The beginning of the digest distinguishes tokens of the same name.
    events.record(session, action, "token", row.name, {"digest": row.digest[:12], **detail}, at=at)


def _record(row: tables.TokenRow, now: datetime) -> Token:
    return Token.from_row(row, state=_state(row.revoked_at, row.expires_at, now))


def _state(revoked_at: datetime | None, expires_at: datetime | None, now: datetime) -> State:
    if revoked_at is not None:
        return "revoked"
    return "expired" if expires_at is not None and expires_at <= now else "active"
