"""Rows as JSON: one form of every value, the same from SQLite and from PostgreSQL.

Columns have one of a few kinds, by which backups read them back (`backup.rows`) and seals hash them (`database.sealing`).
"""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Date, Float, Integer, String, TypeDecorator

from fusery.storage.plaintext import is_keepable

from .record import UtcDateTime

_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""A day within what Python can say, so that every moment between has a time in UTC."""

_MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_WIDEST = 2**63
_LARGEST = int(sys.float_info.max)
_PLAIN = 1e16  # from here on Python writes a float with an exponent, and PostgreSQL hands it back as a whole number


def kind_of(one: Column[Any]) -> str:
    """Return the kind of a column.

    Raises:
        TypeError: it has a type that backups know no form for.
    """
    kind = one.type
    if isinstance(kind, TypeDecorator) and not isinstance(kind, UtcDateTime):
        kind = kind.impl_instance
    match kind:
        case UtcDateTime():
            return "moment"
        case Boolean():
            return "boolean"
        case Integer():
            return "integer"
        case Float():
            return "number"
        case Date():
            return "date"
        case JSON():
            return "document"
        case String():
            return "text"
    raise TypeError(f"{one.table.name}.{one.name} has a type that backups do not know: {one.type!r}")


def document_text(value: Any) -> str:
    """Return the one text of a document: keys sorted, numbers as both databases hand them back.

    Raises:
        ValueError: it holds a NaN or an infinity, which JSON has no form for.
    """
    return json.dumps(_settled(value), sort_keys=True, allow_nan=False)


def to_json(kind: str, value: Any) -> Any:
    """Return the JSON form of a value, from which `from_json` makes the same value again."""
    if value is None:
        return None
    match kind:
        case "moment":
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        case "date":
            return value.isoformat()
        case "number":
            return float(value) if math.isfinite(value) else str(float(value))
        case "document":
            return _settled(value)
    return value


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


def _settled(value: Any) -> Any:
    """Return a document with its numbers as PostgreSQL hands them back, so that both databases give the same text."""
    if isinstance(value, dict):
        return {key: _settled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_settled(part) for part in value]
    if isinstance(value, float):
        if value == 0:
            return 0.0
        return int(value) if _PLAIN <= abs(value) < _WIDEST else value
    if isinstance(value, int) and _WIDEST <= abs(value) <= _LARGEST:
        number = float(value)
        # JSONB hands 1e23 back as the whole number with the digits of Python's text, which 1e23 is not exactly.
        if value in (number, Decimal(repr(number))):
            return number
    return value
