"""The records of tokens: who may ask a server for this registry, and until when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from ..record import EXACT, Record

Role = Literal["reader", "publisher", "approver", "admin"]
"""What a token lets its bearer do; each may do what those before it may."""

State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Record):
    """A token, without its secret, which nobody has but its bearer.

    Attributes:
        name: whose it is: under this name its bearer acts.
        role: what its bearer may do.
        state: `active`, `expired` or `revoked`.
        created_at: since when it is valid.
        created_by: who made it.
        expires_at: until when it is valid; None for one that does not expire.
        revoked_at: since when no server takes it any more.
        revoked_by: who said that.
    """

    REFERENCE = "name"

    name: str
    role: Role
    state: State
    created_at: datetime = field(metadata=EXACT)
    created_by: str
    expires_at: datetime | None = field(metadata=EXACT)
    revoked_at: datetime | None = field(metadata=EXACT)
    revoked_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken(Token):
    """A token that was just made: the only record with its secret.

    Attributes:
        secret: what its bearer shows to a server; it cannot be asked for again.
    """

    secret: str = field(repr=False)

    def _repr_html_(self) -> str:
        """Return a table without the secret: a notebook is kept."""
        return Token._repr_html_(replace(self, secret="in .secret"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Record):
    """Who asks, as their token says.

    Attributes:
        name: of the token: under this name they act.
        role: what they may do.
        expires_at: until when the token is valid; None for one that does not expire.
    """

    name: str
    role: Role
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnIdentity(Identity):
    """Who asks, and which registry is asked.

    Attributes:
        registry: its id.
        version: of fusery there.
    """

    registry: str
    version: str = ""
