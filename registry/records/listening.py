"""The record of a server that listens."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Record):
    """A server that answers."""

    url: str = described("where")
    entrance: str | None = described(
        "address with a key, for a browser that may also change records", optional=True
    )
