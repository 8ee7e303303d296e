"""The roles of tokens: what each lets its bearer do on a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import person
from ..errors import BadInputError, RoleError
from ..records.token import Role

if TYPE_CHECKING:
    from ..workspace import Workspace

Thing = tables.Adapter | tables.BaseModel | tables.Calibration | tables.Fused

ROLES: Sequence[Role] = get_args(Role)
"""From the one that may do least: each may do what those before it may."""

MEANINGS: Mapping[Role, str] = {
    "reader": "look at what is on record, and fetch files",
    "publisher": "do what a reader may, and push what it has registered, set aliases that are open, and write notes and tags",
    "approver": "do what a publisher may, and approve, promote and yank",
    "admin": "do what an approver may",
}
"""What each may do, in words."""


PARTS: Mapping[str, tuple[Role, Role]] = {
    "note or tag": ("publisher", "publisher"),
    "amendment": ("publisher", "approver"),
    "evaluation": ("publisher", "approver"),
    "withdrawn evaluation": ("publisher", "approver"),
    "yank": ("approver", "approver"),
    "signature": ("publisher", "approver"),
    "calibration": ("publisher", "approver"),
}
"""The roles that a sender needs to change a part of a record on a server: their own record, and another's.

A withdrawn evaluation is the sender's own if they recorded it; every other part, if they registered or first pushed the record.
A `model-signing` signature by a trusted key needs the role of a publisher only; one by way of Sigstore is not checked here.
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
    """Return a role by its name.

    Raises:
        BadInputError: there is no such role.
    """
    for role in ROLES:
        if role == text.strip().casefold():
            return role
    raise BadInputError(f"{text[:60]!r} is not a role", hint=f"one of {', '.join(ROLES)}")


def may_change(workspace: Workspace, session: Session, part: str, row: Thing) -> bool:
    """Return whether a package's sender may change a part of an existing record.

    Args:
        workspace: the receiving registry, with the sender's name and role; without a role, everything is allowed.
        session: of any transaction there.
        part: a key of `PARTS`.
        row: the record's row.
    """
    if not workspace.role:
        return True
    own = person(owner_of(session, row)) == person(workspace.actor)
    return allows(parse_role(workspace.role), PARTS[part][0 if own else 1])


def is_trusted(workspace: Workspace) -> bool:
    """Tell whether whoever is at work may decide what counts in this registry: its operator, or an approver's token."""
    return not workspace.role or allows(parse_role(workspace.role), "approver")


def require_may_change(workspace: Workspace, session: Session, part: str, row: Thing) -> None:
    """Refuse a change of a part of a record that the role of whoever is at work does not allow.

    Args:
        workspace: the registry's parts, with the name and role of a server's client.
        session: of any transaction.
        part: a key of `PARTS`.
        row: the record's row.

    Raises:
        RoleError: the role is not enough.
    """
    if not may_change(workspace, session, part, row):
        require_role(workspace, PARTS[part][1], f"another's {part}")


def require_role(workspace: Workspace, role: Role, change: str) -> None:
    """Refuse what the role of whoever is at work does not allow.

    Args:
        workspace: the registry's parts, with the name and role of a server's client.
        role: that is needed.
        change: of what.

    Raises:
        RoleError: the role is not enough.
    """
    if workspace.role and not allows(parse_role(workspace.role), role):
        raise RoleError(
            f"{workspace.actor} has the role of {workspace.role}, and {change} needs {role}",
            hint="ask an admin",
        )


def owner_of(session: Session, row: Thing) -> str:
    """Return the principal who registered or made a record here, or first pushed or pulled it.

    The column `created_by` may hold another registry's claim.

    Args:
        session: of any transaction.
        row: the record's row.
    """
    subject, kind = row.digest, row.__tablename__.removesuffix("_model")
    if isinstance(row, tables.Adapter):
        subject = row.name
    elif isinstance(row, tables.Fused):
        subject = row.key
    event = tables.Event
    query = select(event.actor).where(
        event.subject_kind == kind, event.subject == subject, event.action.in_(_FIRST[kind])
    )
    return session.scalars(query.order_by(event.seq).limit(1)).first() or row.created_by
