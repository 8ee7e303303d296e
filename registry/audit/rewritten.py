"""Compare records that never change, or can only end, with all their seals.

This finds an edit even if a later write has sealed it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_json

from .. import tables
from ..database.actions import ADOPTED
from ..database.sealing import KINDS, contents_of
from .records import Discrepancy, sealed_entries

_ENDING: Mapping[str, frozenset[str]] = {
    "alias_move": frozenset(),
    "amendment": frozenset(),
    "approval": frozenset({"withdrawn_at"}),
    "evaluation": frozenset({"withdrawn_at", "withdrawn_by", "withdrawn_reason"}),
    "fused": frozenset(),
    "signature": frozenset(),
    "task": frozenset(),
    "yank": frozenset({"lifted_at", "lifted_by"}),
}
"""Kinds of immutable records, and the columns that are set when one ends."""

_CLAIMING = ("fused.disowned", ADOPTED)
"""Actions that turn fused models into claims."""

_SCHEMA = """
CREATE TABLE seal (kind TEXT, number INTEGER, seq INTEGER, name TEXT, digest TEXT, PRIMARY KEY (kind, number, seq))
WITHOUT ROWID;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
"""
_SEVERAL = """
SELECT kind, number FROM seal GROUP BY kind, number HAVING count(DISTINCT digest) > 1 ORDER BY kind, number
"""


def check_rewritten(session: Session) -> Iterator[Discrepancy]:
    """Yield immutable records whose seals differ."""
    event = tables.Event
    claiming = set(session.scalars(select(event.seq).where(event.action.in_(_CLAIMING))))
    with closing(sqlite3.connect("")) as scratch:
        scratch.executescript(_SCHEMA)
        for seq, seals in sealed_entries(session):
            rows = [
                (seal.kind, seal.number, seq, seal.name, seal.digest)
                for seal in seals
                if seal.kind in _ENDING and seal.digest is not None
            ]
            scratch.executemany("INSERT OR REPLACE INTO seal VALUES (?, ?, ?, ?, ?)", rows)
        for kind, number in scratch.execute(_SEVERAL).fetchall():
            query = "SELECT seq, name, digest FROM seal WHERE kind = ? AND number = ? ORDER BY seq"
            found = scratch.execute(query, (kind, number)).fetchall()
            digests = list(dict.fromkeys(digest for *_, digest in found))
            seq, name, _ = next(seal for seal in found if seal[2] == digests[1])
            if not _has_ended(session, kind, number, digests, seq in claiming):
                message = f"log entry {seq} sealed it with other values, but such records are immutable"
                yield Discrepancy("record_rewritten", f"{kind} {name}", message)


def _has_ended(session: Session, kind: str, number: int, digests: Sequence[str], claimed: bool) -> bool:
    """Return whether the only change of a record is that it ended, or became a claim."""
    content = contents_of(session, KINDS[kind], [number]).get(number)
    if content is None or len(digests) > 2:
        return False
    if kind == "fused":
        return claimed
    table = KINDS[kind].table.name
    [row] = content[table]
    before = {name: value for name, value in row.items() if name not in _ENDING[kind]}
    return digest_json({**content, table: [before]}) == digests[0]
