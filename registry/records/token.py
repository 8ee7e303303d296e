"""The records of tokens: who may ask a server for this registry, and until when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from ..record import Record, described

Role = Literal["reader", "publisher", "approver", "admin"]
"""What a token lets its bearer do; each may do what those before it may."""

State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Record):
    """A token, without its secret, which nobody has but its bearer."""

    REFERENCE = "name"

    name: str = described("whose it is: under this name its bearer acts")
    role: Role = described("role of the token")
    state: State = described("`active`, `expired` or `revoked`")
    created_at: datetime = described("since when it is valid", heading="since", exact=True)
    created_by: str = described("who made it", heading="by")
    expires_at: datetime | None = described(
        "until when it is valid; None for one that does not expire", heading="expires", exact=True
    )
    revoked_at: datetime | None = described(
        "since when no server takes it any more", heading="revoked", rare=True, exact=True
    )
    revoked_by: str | None = described("who said that", rare=True)


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
    """Who asks, as their token says."""

    name: str = described("name of the token")
    role: Role = described("role of the token")
    expires_at: datetime | None = described(
        "until when the token is valid; None for one that does not expire"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnIdentity(Identity):
    """Who asks, and which registry is asked."""

    registry: str = described("its id")
    version: str = described("version of fusery there")
