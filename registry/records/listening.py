"""The record of a server that listens."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Record):
    """A server that answers.

    Attributes:
        url: where.
    """

    url: str
