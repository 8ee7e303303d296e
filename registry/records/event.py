"""Entries of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRecord(Record):
    """A record that the transaction of an entry wrote."""

    kind: str = described("kind of the record, such as `adapter` or `alias_move`")
    name: str = described("name of the record")
    digest: str | None = described("digest of the record; None if it was removed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """An entry of the log."""

    seq: int = described("number of the entry, from 1", heading="entry")
    at: datetime = described("when it happened", exact=True)
    actor: str = described("who did it", heading="by")
    action: str = described("the action, such as `adapter.registered`", heading="what")
    kind: str = described("kind of the record: `adapter`, `base`, `alias` and so on")
    subject: str = described("name or digest of that")
    name: str | None = described(
        "name of that; None where only its digest is known", heading="to what", free=True
    )
    told: str = described("the event in words, such as from where to where an alias moved", free=True)
    detail: Mapping[str, object] = described("details of the entry, which depend on the action")
    records: tuple[WrittenRecord, ...] = described("records that the transaction wrote")
    hash: str = described("hash of the entry, which the next entry includes")
