"""Every record against its seal: changed, removed, or put in by other means than fusery's.

The newest seal of each record is found by going through the log once.  They are kept in a scratch database on disk, so
that memory does not grow with the registry.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from sqlalchemy import Table, exists, func, or_, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.log import parse_seals
from ..database.sealing import KINDS, Key, Kind, Seal, seal_rows

_BATCH = 500
NAMED = 200
"""Records whose seals are looked for by name: of more the whole log is read, since no database takes any number of conditions."""
_SCHEMA = """
CREATE TABLE seal (kind TEXT, number INTEGER, name TEXT, digest TEXT, PRIMARY KEY (kind, number)) WITHOUT ROWID;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
"""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A record that is not what the log says.

    Attributes:
        code: `record_changed`, `record_missing`, `record_unsealed` or `record_rewritten`; of `audit.spellings`, `value_respelled` or `row_forbidden`.
        subject: the record, as `kind name`.
        message: what is the case, in one sentence.
    """

    code: str
    subject: str
    message: str


def check_records(session: Session, only: Collection[Key] | None = None) -> Iterator[Discrepancy]:
    """Yield every record that is not as its newest seal has it.

    The chain itself is another matter: who changed a seal, too, is found by `events.verify_chain`.

    Args:
        session: of any transaction.
        only: look at these few records, and not for rows without one.
    """
    with closing(sqlite3.connect("")) as scratch:
        scratch.executescript(_SCHEMA)
        _gather(session, scratch, only)
        for kind in KINDS.values():
            for numbers in _numbers(session, kind.table) if only is None else _among(only, kind):
                yield from _compare(session, scratch, kind, numbers)
            if only is None:
                yield from _strays(session, kind)
        yield from _missing(scratch)


def count_records(session: Session) -> int:
    """Return how many records there are."""
    return sum(session.scalar(select(func.count()).select_from(kind.table)) or 0 for kind in KINDS.values())


def unsealed(session: Session) -> Iterator[list[Seal]]:
    """Yield the seals that records without one would have, in batches."""
    with closing(sqlite3.connect("")) as scratch:
        scratch.executescript(_SCHEMA)
        _gather(session, scratch)
        for kind in KINDS.values():
            for numbers in _numbers(session, kind.table):
                known = _known(scratch, kind, numbers)
                new = [number for number in numbers if number not in known]
                if new:
                    yield seal_rows(session, kind, new)


def _gather(session: Session, scratch: sqlite3.Connection, only: Collection[Key] | None = None) -> None:
    """Write the newest seal of every record into the scratch database."""
    for _, seals in sealed_entries(session, only):
        rows = seals if only is None else [seal for seal in seals if seal.key in only]
        scratch.executemany(
            "INSERT OR REPLACE INTO seal VALUES (?, ?, ?, ?)",
            [(seal.kind, seal.number, seal.name, seal.digest) for seal in rows],
        )


def sealed_entries(session: Session, only: Collection[Key] | None = None) -> Iterator[tuple[int, list[Seal]]]:
    """Yield the numbers of the log's entries with their seals, oldest first; an unreadable one is the chain's matter.

    Args:
        session: of any transaction.
        only: at least the entries with seals of these records.
    """
    seq, event = 0, tables.Event
    chosen = select(event.seq, event.seals).where(event.seals.is_not(None)).order_by(event.seq).limit(_BATCH)
    if only is not None and len(only) <= NAMED:
        # The beginning of a seal as it stands in the text; one that stands there otherwise is the chain's matter.
        starts = [f'["{kind}",{number},' for kind, number in only]
        chosen = chosen.where(or_(*(event.seals.contains(start, autoescape=True) for start in starts)))
    while found := session.execute(chosen.where(event.seq > seq)).all():
        for entry in found:
            with suppress(ValueError):
                yield entry.seq, parse_seals(entry.seals)
        seq = found[-1].seq


def _numbers(session: Session, table: Table) -> Iterator[Sequence[int]]:
    """Yield the numbers of all rows in batches.  SQLite keeps any value in a column if somebody insists; not here."""
    last: int | None = None
    while True:
        query = select(table.c.id).order_by(table.c.id).limit(_BATCH)
        found = session.scalars(query if last is None else query.where(table.c.id > last)).all()
        if not found:
            return
        yield found
        last = found[-1]


def _among(only: Collection[Key], kind: Kind) -> Iterator[Sequence[int]]:
    numbers = sorted(number for name, number in only if name == kind.name)
    if numbers:
        yield numbers


def _known(
    scratch: sqlite3.Connection, kind: Kind, numbers: Sequence[int]
) -> dict[int, tuple[str, str | None]]:
    marks = ", ".join("?" * len(numbers))
    query = f"SELECT number, name, digest FROM seal WHERE kind = ? AND number IN ({marks})"
    return {number: (name, digest) for number, name, digest in scratch.execute(query, [kind.name, *numbers])}


def _compare(
    session: Session, scratch: sqlite3.Connection, kind: Kind, numbers: Sequence[int]
) -> Iterator[Discrepancy]:
    known = _known(scratch, kind, numbers)
    now = _sealed(session, kind, numbers)
    for number in numbers:
        name, digest = known.get(number, ("", None))
        seal = now.get(number)
        subject = f"{kind.name} {name or (seal.name if seal else number)}"
        if digest is None:
            yield Discrepancy(
                "record_unsealed",
                subject,
                f"row {number} of {kind.table.name} is in the database, and the log does not know it",
            )
        elif seal is None or seal.digest != digest:
            yield Discrepancy(
                "record_changed",
                subject,
                f"row {number} of {kind.table.name}, or what belongs to it, is not what was written",
            )
    scratch.executemany(
        "UPDATE seal SET digest = NULL WHERE kind = ? AND number = ?",
        [(kind.name, number) for number in numbers],
    )


def _sealed(session: Session, kind: Kind, numbers: Sequence[int]) -> dict[int, Seal]:
    """Return the seals that records have now, without those in which a value is none of its column's type."""
    try:
        return {seal.number: seal for seal in seal_rows(session, kind, numbers)}
    except (ValueError, TypeError, LookupError):
        if len(numbers) == 1:
            return {}
        middle = len(numbers) // 2
        return _sealed(session, kind, numbers[:middle]) | _sealed(session, kind, numbers[middle:])


def _strays(session: Session, kind: Kind) -> Iterator[Discrepancy]:
    """Yield rows that belong to no record: foreign keys forbid them, and can be switched off."""
    for part, column in kind.parts.items():
        owner = exists().where(kind.table.c.id == part.c[column])
        for number in session.scalars(select(part.c[column]).where(~owner).distinct().limit(_BATCH)):
            yield Discrepancy(
                "record_unsealed",
                f"{kind.name} {number}",
                f"{part.name} has rows of a record that is not there",
            )


def _missing(scratch: sqlite3.Connection) -> Iterator[Discrepancy]:
    query = "SELECT kind, number, name FROM seal WHERE digest IS NOT NULL ORDER BY kind, number"
    for kind, number, name in scratch.execute(query):
        yield Discrepancy(
            "record_missing", f"{kind} {name}", f"row {number} of {kind} was written, and is gone"
        )
