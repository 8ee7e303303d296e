"""Every stored value against the one form in which fusery writes it, and every row against its table's checks.

Seals hold values as they are read.  SQLite keeps two texts of one moment or one document as they are given, and compares
them as texts, so an edit can change answers and no seal.  PostgreSQL has types for all values but digests.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Column, Table
from sqlalchemy.orm import Session

from .. import tables
from ..database.sealing import OWNERS, Key
from ..tables.record import DigestText
from ..tables.values import document_text, kind_of
from .records import Discrepancy

_BATCH = 500
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
"""SQL that is true of a value as fusery writes it, by the kind of its column; what is in a document, Python looks at."""

_DIGEST = {"sqlite": "{0} NOT GLOB '*[^0-9a-z]*'", "postgresql": "{0} !~ '[^0-9a-z]'"}


def check_spellings(session: Session, only: Collection[Key] | None = None) -> Iterator[Discrepancy]:
    """Yield what `check_table` finds in every table but the log, or in the rows of a few records."""
    for table in tables.metadata.sorted_tables:
        if only is None:
            if table.name != tables.Event.__tablename__:
                yield from check_table(session, table)
        elif table.name in OWNERS:
            kind, column = OWNERS[table.name]
            numbers = sorted(number for name, number in only if name == kind.name)
            if numbers:
                yield from check_table(session, table, f'"{column}" IN ({", ".join(map(str, numbers))})')


def check_table(session: Session, table: Table, among: str = "true") -> Iterator[Discrepancy]:
    """Yield every value that is not stored as this program stores it, and every row that the table should have refused.

    Args:
        session: of any transaction.
        table: the table.
        among: SQL that is true of the rows to look at.
    """
    dialect = session.get_bind().dialect.name
    for column, said in conditions(table, dialect).items():
        for row in _rows(session, table, column, f"{among} AND ({said}) IS FALSE"):
            yield _respelled(table, column, *row)
    for column in (one.name for one in table.columns if kind_of(one) == "document"):
        for kind, stored, key in _rows(session, table, column, f'{among} AND "{column}" IS NOT NULL'):
            # What is no text was found above.
            if kind in ("text", "jsonb") and not _is_spelled(stored, dialect):
                yield _respelled(table, column, kind, stored, key)
    for name, said in _checks(table):
        for *_, key in _rows(
            session, table, next(iter(table.primary_key)).name, f"{among} AND ({said}) IS FALSE"
        ):
            message = f"the check {name} refuses row {key} of {table.name}, and it is there"
            yield Discrepancy("row_forbidden", f"{table.name} {key}", message)


def conditions(table: Table, dialect: str) -> Mapping[str, str]:
    """Return the SQL that is true of a value in the form in which fusery writes it, by the names of the columns."""
    found = {}
    for column in table.columns:
        parts = [_SQLITE[kind_of(column)]] if dialect == "sqlite" and not _is_row_number(column) else []
        if isinstance(column.type, DigestText):
            parts.append(_DIGEST[dialect])
        if parts:
            name = f'"{column.name}"'
            form = " AND ".join(parts).format(name)
            found[column.name] = f"({name} IS NULL OR {form})" if column.nullable else form
    return found


def _is_row_number(column: Column[Any]) -> bool:
    """Tell whether a column is the number of the row itself, where SQLite takes nothing but whole numbers."""
    return list(column.table.primary_key) == [column] and kind_of(column) == "integer"


def _respelled(table: Table, column: str, kind: str, stored: Any, key: str) -> Discrepancy:
    return Discrepancy(
        "value_respelled",
        f"{table.name}.{column} {key}",
        f"row {key} of {table.name} has the {kind} {repr(stored)[:_SHOWN]} as {column}: fusery does not write it so",
    )


def _checks(table: Table) -> Sequence[tuple[str, str]]:
    checks = (one for one in table.constraints if isinstance(one, CheckConstraint))
    return sorted((str(one.name), str(one.sqltext)) for one in checks)


def _rows(session: Session, table: Table, column: str, condition: str) -> Iterator[tuple[str, Any, str]]:
    """Yield of rows the type that a column's value is stored with, the value, and what the row is called."""
    dialect = session.get_bind().dialect.name
    keys = [_raw(one.name, dialect) for one in table.primary_key.columns]
    kind = f'typeof("{column}")' if dialect == "sqlite" else f'CAST(pg_typeof("{column}") AS TEXT)'
    query = f'SELECT {kind}, {_raw(column, dialect)}, {", ".join(keys)} FROM "{table.name}" WHERE {condition}'
    options = {"yield_per": _BATCH, "no_parameters": True}
    for stored_as, stored, *key in session.connection().exec_driver_sql(query, execution_options=options):
        yield stored_as, _decoded(stored), ", ".join(_told(part) for part in key)


def _raw(column: str, dialect: str) -> str:
    """Return the SQL for a value as it is stored: texts as bytes, which may be no UTF-8, on SQLite."""
    if dialect == "sqlite":
        return f'CASE typeof("{column}") WHEN \'text\' THEN CAST("{column}" AS BLOB) ELSE "{column}" END'
    return f'CAST("{column}" AS TEXT)'


def _decoded(stored: Any) -> Any:
    return stored.decode("utf-8", "backslashreplace") if isinstance(stored, bytes) else stored


def _told(part: Any) -> str:
    told = str(_decoded(part))
    return told if told.isascii() and told.isprintable() and len(told) <= _SHOWN else repr(told)[:_SHOWN]


def _is_spelled(stored: str, dialect: str) -> bool:
    try:
        if dialect == "sqlite":
            value = json.loads(stored)
            return value is not None and document_text(value) == stored
        # In JSONB, which is a tree, two things are left to be spelled: numbers, and null for NULL.
        return json.loads(stored, parse_float=_number) is not None
    except (ValueError, RecursionError):
        return False


def _number(literal: str) -> float:
    """Return a number with a fraction as PostgreSQL prints it.

    Raises:
        ValueError: it is not the one that JSON of this program has for it.
    """
    value = float(literal)
    if literal != format(Decimal(repr(value)), "f"):
        raise ValueError(literal)
    return value
