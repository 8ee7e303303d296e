"""Compare records with their seals in the log, and stored values with their canonical form and the checks of their tables.

Seals cover parsed values.  SQLite stores and compares times and documents as texts, so an edit can change query results
but no seal.  On PostgreSQL this is possible in documents only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import CheckConstraint, Table, exists, func, or_, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.engine import BATCH, batches
from ..database.events import parse_seals
from ..database.sealing import KINDS, OWNERS, Key, RecordKind, Seal, seal_rows
from ..tables.record import document_text, kind_of
from .report import Problem

_NAMED = 200  # records whose seals are searched by name; for more, the whole log is read

_SCHEMA = """
CREATE TABLE seal (kind TEXT, number INTEGER, seq INTEGER, name TEXT, digest TEXT, PRIMARY KEY (kind, number, seq))
WITHOUT ROWID;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
"""


class SealLog:
    """The seals in the log, in a scratch database on disk, so that memory does not grow with the log."""

    def __init__(self, session: Session, only: Collection[Key] | None = None) -> None:
        self.only = only
        self._scratch = sqlite3.connect("")
        self._scratch.executescript(_SCHEMA)
        seq, event = 0, tables.EventRow
        sealed = select(event.seq, event.seals).where(event.seals.is_not(None))
        chosen = sealed.order_by(event.seq).limit(BATCH)
        if only is not None and len(only) <= _NAMED:
            starts = (f'["{kind}",{number},' for kind, number in only)
            chosen = chosen.where(or_(*(event.seals.contains(start, autoescape=True) for start in starts)))
        while entries := session.execute(chosen.where(event.seq > seq)).all():
            for seq, text in entries:
                with suppress(ValueError):  # `events.verify_chain` reports unreadable ones
                    rows = [
                        (seal.kind, seal.number, seq, seal.name, seal.digest)
                        for seal in parse_seals(str(text))
                        if only is None or seal.key in only
                    ]
                    self._scratch.executemany("INSERT OR REPLACE INTO seal VALUES (?, ?, ?, ?, ?)", rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def newest(self, kind: str, numbers: Sequence[int]) -> dict[int, tuple[str, str | None]]:
        """Return the name and the digest of the newest seal of records."""
        marks = ", ".join("?" * len(numbers))
        query = f"SELECT number, name, digest, max(seq) FROM seal WHERE kind = ? AND number IN ({marks}) GROUP BY number"
        rows = self._scratch.execute(query, [kind, *numbers])
        return {number: (name, digest) for number, name, digest, _ in rows}

    def present(self, kind: str) -> Iterator[tuple[int, str]]:
        """Yield the number and the name of each record of a kind that was not removed, according to its newest seal."""
        query = "SELECT number, name, digest, max(seq) FROM seal WHERE kind = ? GROUP BY number"
        for number, name, digest, _ in self._scratch.execute(query, [kind]):
            if digest is not None:
                yield number, name

    def changed(self) -> list[Key]:
        """Return the records whose seals have several digests."""
        query = "SELECT kind, number FROM seal GROUP BY kind, number HAVING count(DISTINCT digest) > 1"
        return self._scratch.execute(query).fetchall()

    def seals(self, key: Key) -> list[tuple[int, str, str]]:
        """Return the entry, the name and the digest of each seal of a record, oldest first."""
        query = "SELECT seq, name, digest FROM seal WHERE kind = ? AND number = ? AND digest IS NOT NULL ORDER BY seq"
        return self._scratch.execute(query, key).fetchall()

    def first_entries(self, kind: str) -> dict[int, int]:
        """Return the log entry that added each record of a kind, by the record's number."""
        query = "SELECT number, min(seq) FROM seal WHERE kind = ? AND digest IS NOT NULL GROUP BY number"
        return dict(self._scratch.execute(query, [kind]))


def count_records(session: Session) -> int:
    """Return the number of all records."""
    return sum(session.scalar(select(func.count()).select_from(kind.table)) or 0 for kind in KINDS.values())


def check_records(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield every record that differs from its newest seal, and rows that belong to no record."""
    for kind in KINDS.values():
        query = select(kind.table.c.id).order_by(kind.table.c.id)
        if log.only is not None:
            wanted = [number for name, number in log.only if name == kind.name]
            query = query.where(kind.table.c.id.in_(wanted))
        for numbers in batches(session.scalars(query)):
            newest, now = log.newest(kind.name, numbers), _seals_now(session, kind, numbers)
            for number in numbers:
                name, digest = newest.get(number, ("", None))
                seal, row = now.get(number), f"row {number} of {kind.table.name}"
                subject = f"{kind.name} {name or (seal.name if seal else number)}"
                if digest is None:
                    yield Problem("record_unsealed", subject, f"{row} has no entry in the log")
                elif seal is None or seal.digest != digest:
                    yield Problem("record_changed", subject, f"{row} or its related rows were changed")
        for part in kind.parts if log.only is None else ():  # foreign keys forbid it, and can be switched off
            column = tables.metadata.tables[part].c[kind.column]
            owner = exists().where(kind.table.c.id == column)
            for number in session.scalars(select(column).where(~owner).distinct().limit(BATCH)):
                message = f"{part} has rows of a missing record"
                yield Problem("record_unsealed", f"{kind.name} {number}", message)
        names = dict(log.present(kind.name))
        for chosen in batches(names):
            present_ids = set(session.scalars(select(kind.table.c.id).where(kind.table.c.id.in_(chosen))))
            for number in sorted(set(chosen) - present_ids):
                message = f"row {number} of {kind.name} was removed"
                yield Problem("record_missing", f"{kind.name} {names[number]}", message)


def _seals_now(session: Session, kind: RecordKind, numbers: Sequence[int]) -> dict[int, Seal]:
    """Return the seals that records have now, without records that have invalid values."""
    try:
        return {seal.number: seal for seal in seal_rows(session, kind, numbers)}
    except (ValueError, TypeError, LookupError):
        if len(numbers) == 1:
            return {}
        middle = len(numbers) // 2
        return _seals_now(session, kind, numbers[:middle]) | _seals_now(session, kind, numbers[middle:])


_SHOWN = 80

_DIGIT = "[0-9]"
_DATE = f"{_DIGIT * 4}-{_DIGIT * 2}-{_DIGIT * 2}"
_TIME = f"{_DIGIT * 2}:{_DIGIT * 2}:{_DIGIT * 2}.{_DIGIT * 6}"
_SECOND = "substr({0}, 1, 19)"
_SQLITE = {
    "integer": "typeof({0}) = 'integer'",
    "boolean": "typeof({0}) = 'integer' AND {0} IN (0, 1)",
    "number": "typeof({0}) = 'real'",
    # 2026-02-30 and 24:00:00 have the form of a moment.
    "moment": f"typeof({{0}}) = 'text' AND {{0}} GLOB '{_DATE} {_TIME}' AND length(CAST({{0}} AS BLOB)) = 26 "
    f"AND datetime({_SECOND}, '+0 days') IS {_SECOND}",
    "date": f"typeof({{0}}) = 'text' AND {{0}} GLOB '{_DATE}' AND length(CAST({{0}} AS BLOB)) = 10 "
    "AND date({0}, '+0 days') IS {0}",
    "document": "typeof({0}) = 'text'",
    "text": "typeof({0}) = 'text' AND instr({0}, char(0)) = 0",
}
"""SQL that is true of a value as fusery writes it, by the kind of its column; Python compares the content of documents."""


def check_spellings(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield the findings of `check_table` in every table but the log, or in the rows of some records."""
    for table in tables.metadata.sorted_tables:
        if log.only is None:
            if table.name != tables.EventRow.__tablename__:
                yield from check_table(session, table)
        elif table.name in OWNERS:
            kind, column = OWNERS[table.name]
            numbers = sorted(number for name, number in log.only if name == kind.name)
            if numbers:
                yield from check_table(session, table, f'"{column}" IN ({", ".join(map(str, numbers))})')


def check_table(session: Session, table: Table, among: str = "true") -> Iterator[Problem]:
    """Yield every value in a non-canonical form and every row that violates a check, where the SQL `among` is true."""
    sqlite, keys = session.get_bind().dialect.name == "sqlite", list(table.primary_key.columns)
    kinds = {column.name: kind_of(column) for column in table.columns}
    wrong = {
        name: f'{among} AND "{name}" IS NOT NULL AND (' + _SQLITE[kind].format(f'"{name}"') + ") IS FALSE"
        for name, kind in kinds.items()
        # A row's number is always an integer.
        if sqlite and not (kind == "integer" and [key.name for key in keys] == [name])
    }
    checks = {
        str(check.name): f"{among} AND ({check.sqltext}) IS FALSE"
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    # The table is read once where all is well.
    conditions = " OR ".join(f"({condition})" for condition in [*wrong.values(), *checks.values()]) or "false"
    query, options = f'SELECT 1 FROM "{table.name}" WHERE {conditions} LIMIT 1', {"no_parameters": True}
    if session.connection().exec_driver_sql(query, execution_options=options).first() is None:
        wrong, checks = {}, {}
    for name, kind in kinds.items():
        bad_values = list(_rows(session, table, name, wrong[name])) if name in wrong else []
        if kind == "document":
            given = _rows(session, table, name, f'{among} AND "{name}" IS NOT NULL')
            rows = (row for row in given if row[0] in ("text", "jsonb"))
            bad_values += [row for row in rows if not _is_spelled(row[1], sqlite)]
        for form, stored, key in bad_values:
            shown = f"the {form} {repr(stored)[:_SHOWN]} as {name}: non-canonical form"
            message = f"row {key} of {table.name} has {shown}"
            yield Problem("value_respelled", f"{table.name}.{name} {key}", message)
    for check, refused in sorted(checks.items()):
        for *_, key in _rows(session, table, keys[0].name, refused):
            message = f"row {key} of {table.name} violates the check {check}"
            yield Problem("row_forbidden", f"{table.name} {key}", message)


def _rows(session: Session, table: Table, column: str, condition: str) -> Iterator[tuple[str, Any, str]]:
    """Yield of rows the type that a column's value is stored with, the value, and the primary key."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    keys = [_raw(key.name, sqlite) for key in table.primary_key.columns]
    form = f'typeof("{column}")' if sqlite else f'CAST(pg_typeof("{column}") AS TEXT)'
    query = f'SELECT {form}, {_raw(column, sqlite)}, {", ".join(keys)} FROM "{table.name}" WHERE {condition}'
    options = {"yield_per": BATCH, "no_parameters": True}
    for stored_as, *values in session.connection().exec_driver_sql(query, execution_options=options):
        stored, *key = (
            str(raw, "utf-8", "backslashreplace") if isinstance(raw, bytes) else raw for raw in values
        )
        plain = all(str(part).isprintable() for part in key)
        yield stored_as, stored, ", ".join(str(part) if plain else repr(part) for part in key)[:_SHOWN]


def _raw(column: str, sqlite: bool) -> str:
    """Return the SQL for a value as it is stored: on SQLite texts as bytes, which may be no UTF-8."""
    if sqlite:
        return f'CASE typeof("{column}") WHEN \'text\' THEN CAST("{column}" AS BLOB) ELSE "{column}" END'
    return f'CAST("{column}" AS TEXT)'


def _is_spelled(stored: str, sqlite: bool) -> bool:
    """Return whether a document is stored as fusery writes it; in JSONB that depends on numbers and null alone."""
    try:
        if sqlite:
            value = json.loads(stored)
            return value is not None and document_text(value) == stored
        return json.loads(stored, parse_float=_number) is not None
    except (ValueError, RecursionError):
        return False


def _number(literal: str) -> float:
    """Return a number with a fraction as PostgreSQL prints it."""
    value = float(literal)
    if literal != format(Decimal(repr(value)), "f"):
        raise ValueError(literal)
    return value
