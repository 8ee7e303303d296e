"""Rows as JSON: one form of every value, the same from SQLite and from PostgreSQL, and back again.

Columns have one of a few kinds, which the backup names: it can be read by a version of fusery whose tables have moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Double,
    String,
    Table,
    types,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement, collate, column, select, table

from ..tables.record import DOCUMENT, UtcDateTime
from ..tables.values import kind_of, to_json

Row = dict[str, Any]

_BATCH = 1000

_TYPES: Mapping[str, Callable[[], types.TypeEngine[Any]]] = {
    "moment": UtcDateTime,
    "boolean": Boolean,
    "integer": BigInteger,
    "number": Double,
    "date": Date,
    "document": lambda: DOCUMENT,
    "text": String,
}
KINDS = frozenset(_TYPES)


def light_table(name: str, kinds: Mapping[str, str]) -> Any:
    """Return a table with these columns to insert into, whatever the program's own tables are now."""
    return table(name, *(column(one, _TYPES[kind]()) for one, kind in kinds.items()))


def stored_rows(session: Session, source: Table) -> Iterator[Row]:
    """Yield the rows of a table as plain JSON values, by primary key, in memory that does not grow with them."""
    kinds = {one.name: kind_of(one) for one in source.columns}
    order = [_ordered(one, session) for one in source.primary_key.columns]
    # The order of PostgreSQL's texts is the server's language's otherwise.
    query = select(source).order_by(*order).execution_options(yield_per=_BATCH)
    for found in session.execute(query).mappings():
        yield {name: to_json(kind, found[name]) for name, kind in kinds.items()}


def _ordered(one: Column[Any], session: Session) -> ColumnElement[Any]:
    text = isinstance(one.type, String) and session.get_bind().dialect.name == "postgresql"
    return collate(one, "C") if text else one
