"""Tokens of a server's users.

A secret is 32 random bytes, so that its SHA-256 needs no slow hash.  The database holds only that digest, by which a token is
looked up: the time that this takes reveals nothing about a secret.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database import Database, events
from ..errors import AlreadyExistsError, BadInputError, InvalidTokenError, UnknownReferenceError
from ..names import parse_slug
from ..parsing import parse_expiry
from ..workspace.workspace import Workspace
from .roles import parse_role
from .trust import Identity, NewToken, OwnIdentity, State, Token

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
        if _newest(session, called, revoked=False) is not None:
            hint = f"fusery admin token revoke {called}"
            raise AlreadyExistsError(f"token {called} already exists", hint=hint)
        row = tables.TokenRow(
            name=called,
            role=may,
            digest=_digest(secret),
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
        row = _newest(session, called, revoked=False)
        if row is not None:
            row.revoked_at, row.revoked_by = now, workspace.actor
            _log(session, "token.revoked", row, {"reason": reason}, now)
        else:
            row = _newest(session, called, revoked=True)
        if row is None:
            raise UnknownReferenceError(f"there is no token {called}", hint="fusery admin token list")
        return _record(row, now)


def own(workspace: Workspace) -> OwnIdentity:
    """Return who is at work: the bearer of a token, or on a registry of this machine its operator."""
    role = parse_role(workspace.role) if workspace.role else "admin"
    registry = workspace.identity
    with workspace.database.read() as session:
        row = _newest(session, workspace.actor, revoked=False) if workspace.authenticated else None
        expires = None if row is None else row.expires_at
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
        row = session.execute(query.where(token.digest == _digest(secret))).first()
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


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _newest(session: Session, name: str, *, revoked: bool) -> tables.TokenRow | None:
    token = tables.TokenRow
    ended = token.revoked_at.is_not(None) if revoked else token.revoked_at.is_(None)
    return session.scalars(select(token).where(token.name == name, ended).order_by(token.id.desc())).first()


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
