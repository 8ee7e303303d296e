"""The roles of tokens: what each lets its bearer do on a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import person
from ..errors import BadInputError, RoleError
from ..workspace.workspace import Workspace
from .trust import Role

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
    return allows(parse_role(workspace.role), PARTS[part][0 if own else 1])


def is_trusted(workspace: Workspace) -> bool:
    """Return whether the actor may decide for this registry: its operator, or an approver's token."""
    return not workspace.role or allows(parse_role(workspace.role), "approver")


def require_may_change(workspace: Workspace, session: Session, part: str, row: Thing) -> None:
    """Refuse a change of a part (of `PARTS`) of a record that the role does not allow."""
    if not may_change(workspace, session, part, row):
        require_role(workspace, PARTS[part][1], f"another's {part}")


def require_role(workspace: Workspace, role: Role, change: str) -> None:
    """Refuse what the role does not allow."""
    if workspace.role and not allows(parse_role(workspace.role), role):
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
