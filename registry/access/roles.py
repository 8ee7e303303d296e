"""The roles of tokens: what each lets its bearer do.

They are what a server holds a request against.  What a login of a PostgreSQL database may do is another thing
(`database.grants`): the server has one, and its clients have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError
from ..records.token import Role

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
}
"""The roles that a sender needs to change a part of an adapter on a server: their own adapter, and another's.

A withdrawn evaluation is the sender's own if they recorded it; every other part, if they registered or first pushed the adapter.
"""


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


def owner_of(session: Session, adapter: tables.Adapter) -> str:
    """Return the principal who registered an adapter here, or first pushed or pulled it.

    The column `created_by` may hold another registry's claim.

    Args:
        session: of any transaction.
        adapter: the adapter's row.
    """
    event = tables.Event
    query = select(event.actor).where(
        event.subject_kind == "adapter",
        event.subject == adapter.name,
        event.action.in_(("adapter.registered", "adapter.received")),
    )
    return session.scalars(query.order_by(event.seq).limit(1)).first() or adapter.created_by
