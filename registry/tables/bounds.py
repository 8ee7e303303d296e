"""What a value from another party must be to be recorded; SQLite, unlike PostgreSQL, keeps any value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Table

from fusery.storage.digest import is_digest
from fusery.storage.jsonfile import MAX_DEPTH, layers
from fusery.storage.plaintext import is_keepable

from .record import DIGEST, kind_of

LONGEST = 1 << 20  # characters of a text whose column has no length

LARGEST = 16 << 20  # characters of a document in JSON

MOST_VALUES = 1_000_000  # the most values in a document; a base model has about seven for each tensor

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What a terminal acts upon, and what changes the direction or the lines of a text."""


def problem_of(table: Table, values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with some columns of a row, in a few words; None where nothing is."""
    for name, value in values.items():
        column = table.columns.get(name)
        if column is None:
            continue
        if value is None:
            if not column.nullable:
                return f"nothing in {table.name}.{name}"
        elif kind_of(column) == "document":
            if (problem := json_problem(value)) is not None:
                return f"{problem} in {table.name}.{name}"
        elif not _FITS[kind_of(column)](column, value):
            return f"an unfit value in {table.name}.{name}"
    return None


def json_problem(document: Any) -> str | None:
    """Return why a document of JSON cannot be recorded, in a few words; None if it can."""
    count = level = 0
    for level, layer in enumerate(layers(document)):
        count += len(layer)
        if count > MOST_VALUES or level > MAX_DEPTH:
            return f"more than {MOST_VALUES:,} values, or more than {MAX_DEPTH} levels"
    try:
        if not is_keepable(document):
            return "an unfit value"
        length = len(json.dumps(document, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        return "an unfit value"
    return f"more than {LARGEST:,} characters of JSON" if length > LARGEST else None


def _text(column: Column[Any], value: Any) -> bool:
    if not isinstance(value, str) or not is_keepable(value):
        return False
    if column.type is DIGEST:
        return is_digest(value) or (value == "" and column.default is not None)
    length = getattr(column.type, "length", None)
    if length is None:
        # A log entry has the seals of all records that its transaction wrote.
        return len(value) <= (LARGEST if column.table.name == "event" else LONGEST)
    return len(value) <= length and not CONTROL.search(value)


def _integer(column: Column[Any], value: Any) -> bool:
    widest = 2**63 if isinstance(column.type, BigInteger) else 2**31
    least = 0 if column.name in ("size", "bytes") else -widest
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < widest


def is_moment(value: Any) -> bool:
    """Return whether a value is a moment with its time zone, which can be said in UTC."""
    try:
        return isinstance(value, datetime) and value.tzinfo is not None and value.astimezone(UTC) is not None
    except OverflowError:
        return False


_FITS: Mapping[str, Any] = {
    "boolean": lambda _, value: isinstance(value, bool),
    "date": lambda _, value: isinstance(value, date),
    "integer": _integer,
    "moment": lambda _, value: is_moment(value),
    "number": lambda _, value: (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ),
    "text": _text,
}
