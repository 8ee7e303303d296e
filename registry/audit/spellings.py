"""Every value as it is stored, against the one spelling of what it stands for; and every row against its table's checks.

Seals hold values as they are read.  Two texts that are read as one moment, or as one document, have one seal, and still
answers differ: texts are compared as texts.  So what is stored is looked at itself, in every table, sealed or not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Table
from sqlalchemy.orm import Session

from .. import tables
from ..database.sealing import OWNERS, Key
from ..database.spelling import conditions
from ..tables.values import document_text, kind_of
from .records import Discrepancy

_BATCH = 500
_SHOWN = 80


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
