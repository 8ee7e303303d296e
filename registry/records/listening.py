"""The record of a server that listens."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Record):
    """A server that answers.

    Attributes:
        url: where.
        entrance: the address that pages are opened by for acts; left out where there is none.
    """

    url: str
    entrance: str | None = left_out()
