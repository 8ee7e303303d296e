"""Tables of the database against those that the program declares: columns, keys, indexes, and the names of checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CheckConstraint, Connection, inspect, text

from .. import tables
from .connection import Database

_EQUAL: set[frozenset[str]] = set()
"""Schemas of SQLite files in which nothing differs: Alembic takes a quarter of a second to see it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of a table that is not as the program makes it.

    Attributes:
        table: its name.
        message: what differs, in one sentence.
    """

    table: str
    message: str


def differences(database: Database) -> list[Difference]:
    """Return what the database defines otherwise than the program does; tables of others in it do not count.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as session:
        connection = session.connection()
        statements = _statements(connection)
        if statements in _EQUAL:
            return []
        context = MigrationContext.configure(connection, opts={"include_object": _is_ours})
        found = list(_told(compare_metadata(context, tables.metadata)))
        found += _checks(connection)
    if statements and not found:
        _EQUAL.add(statements)
    return sorted(found, key=lambda one: (one.table, one.message))


def _statements(connection: Connection) -> frozenset[str]:
    """Return what defines the schema of an SQLite file; nothing on PostgreSQL, which keeps no text of it."""
    if connection.dialect.name != "sqlite":
        return frozenset()
    return frozenset(connection.scalars(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")))


def _is_ours(_: Any, name: str | None, kind: str, reflected: bool, compared_to: Any) -> bool:
    return kind != "table" or name in tables.metadata.tables


def _told(operations: Any) -> Iterator[Difference]:
    """Yield a difference for each operation by which Alembic would change the database."""
    for operation in operations:
        if isinstance(operation, list):  # of one column
            for _, _, table, column, _, is_, should in operation:
                yield Difference(
                    table, f"the column {column} of {table} is {is_!r}, and should be {should!r}"
                )
            continue
        verb, _, kind = operation[0].partition("_")
        table, what = (operation[2], operation[3]) if kind == "column" else (operation[1], operation[1])
        name = table if isinstance(table, str) else getattr(table, "table", table).name
        subject = f"the table {name}" if kind == "table" else f"the {kind} {what.name} of {name}"
        yield Difference(name, f"{subject} {'is gone' if verb == 'add' else 'is not of this program'}")


def _checks(connection: Connection) -> Iterator[Difference]:
    found = inspect(connection).get_multi_check_constraints()
    for name, table in tables.metadata.tables.items():
        ours = {str(one.name) for one in table.constraints if isinstance(one, CheckConstraint)}
        is_there = {str(one["name"]) for one in found.get((None, name), ())}
        for check in sorted(ours - is_there):
            yield Difference(name, f"the check {check} of {name} is gone")
