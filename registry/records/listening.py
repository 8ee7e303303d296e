"""The record of a server that listens."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Record):
    """A server that answers."""

    url: str = described("where")
    entrance: str | None = described(
        "the address that pages are opened by for acts; left out where there is none", optional=True
    )
