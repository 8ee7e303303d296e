"""How values are spelled: SQL that is true of a value which is stored as this program stores it.

SQLite keeps what it is given and compares texts, so two spellings of one moment are one value to who parses them and two to
who sorts by them.  There is one spelling of each; what is refused and what an audit looks for is the same SQL.  PostgreSQL
has types for all but digests.  What is in a document, SQL does not tell: `audit.spellings` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, Table

from ..tables.record import DigestText
from ..tables.values import kind_of

_SECOND = "substr({0}, 1, 19)"
_SQLITE = {
    "integer": "typeof({0}) = 'integer'",
    "boolean": "typeof({0}) = 'integer' AND {0} IN (0, 1)",
    "number": "typeof({0}) = 'real'",
    "moment": (
        f"typeof({{0}}) = 'text' AND length(CAST({{0}} AS BLOB)) = 26 "
        f"AND datetime({_SECOND}, '+0 days') IS {_SECOND} "
        f"AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]'"
    ),
    "date": ("typeof({0}) = 'text' AND length(CAST({0} AS BLOB)) = 10 AND date({0}, '+0 days') IS {0}"),
    "document": "typeof({0}) = 'text'",
    "text": "typeof({0}) = 'text' AND instr({0}, char(0)) = 0",
}
"""By the kind of a column, of a value that is not null."""

_DIGEST = {"sqlite": "{0} NOT GLOB '*[^0-9a-z]*'", "postgresql": "{0} !~ '[^0-9a-z]'"}


def conditions(table: Table, dialect: str, prefix: str = "") -> Mapping[str, str]:
    """Return the SQL that tells whether a value is spelled as it should be, by the names of the columns.

    Args:
        table: the table.
        dialect: `sqlite` or `postgresql`.
        prefix: what comes before a column's name, such as `NEW.`.
    """
    found = {}
    for column in table.columns:
        parts = _parts(column, dialect)
        if parts:
            value = f'{prefix}"{column.name}"'
            said = " AND ".join(part.format(value) for part in parts)
            found[column.name] = f"{value} IS NULL OR ({said})" if column.nullable else said
    return found


def _parts(column: Column[Any], dialect: str) -> list[str]:
    if dialect == "sqlite" and list(column.table.primary_key) == [column] and kind_of(column) == "integer":
        return []  # the number of the row itself: SQLite takes nothing but a whole number
    digest = [_DIGEST[dialect]] if isinstance(column.type, DigestText) else []
    return [_SQLITE[kind_of(column)], *digest] if dialect == "sqlite" else digest
