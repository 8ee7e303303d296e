"""How values are spelled: SQL that is true of a value which is stored as this program stores it.

SQLite keeps what it is given and compares texts, so two spellings of one moment are one value to who parses them and two to
who sorts by them.  There is one spelling of each; SQLite refuses what has not its form, and an audit asks the same and more.  PostgreSQL
has types for all but digests.  What is in a document, SQL does not tell: `audit.spellings` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Table

from ..tables.record import DigestText
from ..tables.values import kind_of

_DIGIT = "[0-9]"
_DATE = f"{_DIGIT * 4}-{_DIGIT * 2}-{_DIGIT * 2}"
_TIME = f"{_DIGIT * 2}:{_DIGIT * 2}:{_DIGIT * 2}.{_DIGIT * 6}"
_FORMS = {
    "integer": "typeof({0}) = 'integer'",
    "boolean": "typeof({0}) = 'integer' AND {0} IN (0, 1)",
    "number": "typeof({0}) = 'real'",
    "moment": f"typeof({{0}}) = 'text' AND {{0}} GLOB '{_DATE} {_TIME}'",
    "date": f"typeof({{0}}) = 'text' AND {{0}} GLOB '{_DATE}'",
    "document": "typeof({0}) = 'text'",
}
"""What SQLite refuses otherwise, by the kind of a column: short, since every connection reads it.  Texts have no other form."""

_SECOND = "substr({0}, 1, 19)"
_EXACT = {
    # 2026-02-30 and 24:00:00 have the form of a moment.
    "moment": f"length(CAST({{0}} AS BLOB)) = 26 AND datetime({_SECOND}, '+0 days') IS {_SECOND}",
    "date": "length(CAST({0} AS BLOB)) = 10 AND date({0}, '+0 days') IS {0}",
    "text": "typeof({0}) = 'text' AND instr({0}, char(0)) = 0",
}
"""What an audit asks besides."""

_DIGEST = {"sqlite": "{0} NOT GLOB '*[^0-9a-z]*'", "postgresql": "{0} !~ '[^0-9a-z]'"}


def conditions(table: Table, dialect: str) -> Mapping[str, str]:
    """Return the SQL that is true of a value which is spelled as it should be, by the names of the columns."""
    found = {}
    for column in table.columns:
        parts = []
        if dialect == "sqlite" and not _is_row_number(column):
            kind = kind_of(column)
            parts = [part for part in (_FORMS.get(kind), _EXACT.get(kind)) if part is not None]
        if isinstance(column.type, DigestText):
            parts.append(_DIGEST[dialect])
        if parts:
            said = " AND ".join(parts)
            found[column.name] = (
                _or_null(column, said) if column.nullable else said.format(f'"{column.name}"')
            )
    return found


def forms(table: Table) -> Sequence[str]:
    """Return the SQL that is true of what SQLite is to take for the columns of a new row."""
    columns = [column for column in table.columns if kind_of(column) in _FORMS and not _is_row_number(column)]
    # What is missing and must not be is refused by the column itself, which says so.
    return [_or_null(column, _FORMS[kind_of(column)], "NEW.") for column in columns]


def _or_null(column: Column[Any], said: str, prefix: str = "") -> str:
    value = f'{prefix}"{column.name}"'
    return f"({value} IS NULL OR {said.format(value)})"


def _is_row_number(column: Column[Any]) -> bool:
    """Tell whether a column is the number of the row itself: SQLite takes nothing but a whole number there."""
    return list(column.table.primary_key) == [column] and kind_of(column) == "integer"
