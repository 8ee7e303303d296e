"""Rows as JSON: one form of every value, the same from SQLite and from PostgreSQL, and back again.

Columns have one of a few kinds, which the backup names: it can be read by a version of fusery whose tables have moved on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
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

from fusery.storage.plaintext import is_keepable

from ..tables.record import DOCUMENT, UtcDateTime
from ..tables.values import kind_of, to_json

Row = dict[str, Any]

_WIDEST = 2**63
_BATCH = 1000
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""A day within what Python can say, so that every moment between has a time in UTC."""

_MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


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


def from_json(kind: str, value: Any) -> Any:
    """Return a value for the database.

    Raises:
        ValueError: it is not the form of such a value.
    """
    if value is None:
        return None
    match kind:
        case "moment" if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None and _EARLIEST < moment < _LATEST:
                return moment
        case "date" if isinstance(value, str):
            return date.fromisoformat(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if -_WIDEST <= value < _WIDEST:
                return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "number" if isinstance(value, str) and value in _MARKS:
            return _MARKS[value]
        case "text" if isinstance(value, str) and is_keepable(value):
            return value
        case "document" if is_keepable(value):
            return value
    raise ValueError(f"not a value of the kind {kind}")
