"""The schema's state in a database, and moving it up.  Alembic is imported only where something has to be moved.

Every use of the registry asks `require` first, so that neither an older nor a newer program ever writes into a schema
it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SchemaError
from ..record import Record, described

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from .connection import Database

HEAD = "0001"
"""The newest revision in `fusery.migrations.versions`; a test compares."""

VERSION_TABLE = "alembic_version"
_LANDMARKS = frozenset({"adapter", "blob", "manifest", "event"})

_EQUAL: set[frozenset[str]] = set()
"""Schemas of SQLite files in which nothing differs: Alembic takes a quarter of a second to see it."""

Status = Literal["empty", "current", "older", "newer", "foreign"]


@dataclass(frozen=True, slots=True)
class SchemaState(Record):
    """What a database holds."""

    current: str | None = described("its revision, or None without one")
    head: str = described("the revision that this version of fusery works with")
    status: Status = described("`empty`, `current`, `older`, `newer`, or `foreign` (not a registry)")


@dataclass(frozen=True, slots=True)
class Upgraded(Record):
    """What an upgrade has done."""

    before: str | None = described("the revision that the database had, None if there was none")
    after: str | None = described("the one that it has")


def state(database: Database) -> SchemaState:
    """Return what a database holds, without changing anything; a missing SQLite file is `empty` and stays missing."""
    if database.path is not None and not database.path.exists():
        return SchemaState(None, HEAD, "empty")
    with database.read() as session:
        return _inspect(session.connection())


def require(database: Database, *, may_create: bool) -> None:
    """Make sure that the database has the schema of this version of fusery.

    Args:
        may_create: give an empty SQLite file the schema, and make the file and its folder, without being asked.

    Raises:
        SchemaError: the schema is older, newer, missing, or not fusery's; nothing was written.
    """
    found = state(database)
    if found.status == "current":
        return
    if found.status == "empty" and may_create and database.path is not None:
        upgrade(database)
        return
    raise _refusal(found, database)


def upgrade(database: Database) -> SchemaState:
    """Bring the schema to the newest revision in one transaction; return the state before.

    Raises:
        SchemaError: the database is newer, or not fusery's; nothing was written.
    """
    found = state(database)
    if found.status in ("newer", "foreign"):
        raise _refusal(found, database)
    database.make_folder()
    with database.schema_change() as connection:
        before = _inspect(connection)  # again, now that no other process can change it
        if before.status in ("newer", "foreign"):
            raise _refusal(before, database)
        if before.status != "current":
            from alembic import command

            command.upgrade(_config(connection), HEAD)
    return before


def downgrade(database: Database, revision: str) -> None:
    """Take the schema down to a revision, `base` for nothing.  Loses data; for tests."""
    from alembic import command

    with database.schema_change() as connection:
        command.downgrade(_config(connection), revision)


def move(connection: Connection, revision: str) -> None:
    """Take the schema up or down to a revision within a schema change of the caller's; for `restore`."""
    from alembic import command

    found = _inspect(connection).current
    if found == revision:
        return
    (command.upgrade if found is None or found < revision else command.downgrade)(
        _config(connection), revision
    )


def check(database: Database) -> list[str]:
    """Return the differences between the tables in the database and those that the program makes."""
    return [message for _, message in differences(database)]


def differences(database: Database) -> list[tuple[str, str]]:
    """Return the tables that differ from those of the program, each with a difference; tables of others do not count."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import CheckConstraint, inspect, text

    from ..tables import metadata

    def is_ours(_: Any, name: str | None, kind: str, *__: Any) -> bool:
        return kind != "table" or name in metadata.tables

    with database.read() as session:
        connection, statements = session.connection(), frozenset[str]()
        if database.dialect == "sqlite":  # PostgreSQL keeps no text of its schema
            query = text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            statements = frozenset(connection.scalars(query))
        if statements in _EQUAL:
            return []
        context = MigrationContext.configure(connection, opts={"include_object": is_ours})
        found = list(_differences(compare_metadata(context, metadata)))
        there = inspect(connection).get_multi_check_constraints()
        for name, table in metadata.tables.items():
            checks = {str(one.name) for one in table.constraints if isinstance(one, CheckConstraint)}
            for check in checks - {str(one["name"]) for one in there.get((None, name), ())}:
                found.append((name, f"the check {check} of {name} is gone"))
    if statements and not found:
        _EQUAL.add(statements)
    return sorted(found)


def _differences(operations: Any) -> Iterator[tuple[str, str]]:
    """Yield a difference for each operation by which Alembic would change the database."""
    for operation in operations:
        if isinstance(operation, list):  # of one column
            for _, _, table, column, _, is_, should in operation:
                yield table, f"the column {column} of {table} is {is_!r}, and should be {should!r}"
            continue
        verb, _, kind = operation[0].partition("_")
        table, what = (operation[2], operation[3]) if kind == "column" else (operation[1], operation[1])
        name = table if isinstance(table, str) else getattr(table, "table", table).name
        subject = f"the table {name}" if kind == "table" else f"the {kind} {what.name} of {name}"
        yield name, f"{subject} {'is gone' if verb == 'add' else 'is not of this program'}"


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    # With the colon: the namespace `fusery` has no folder that Alembic could look into.
    config.set_main_option("script_location", "fusery.migrations:")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _inspect(connection: Connection) -> SchemaState:
    tables = _tables(connection)
    versions: list[str] = []
    if VERSION_TABLE in tables:
        # SQLite keeps bytes, numbers and nothing as well, where somebody put them instead of a text.
        found = _texts(connection, f"SELECT version_num FROM {VERSION_TABLE}")
        versions = [one if isinstance(one, str) else repr(one)[:40] for one in found]
    current = versions[0] if len(versions) == 1 else None
    return SchemaState(current, HEAD, _status(current, tables - {VERSION_TABLE}))


def _status(current: str | None, tables: set[str]) -> Status:
    if current is None:
        return "foreign" if tables else "empty"
    if (
        not (current.isascii() and current.isdigit() and len(current) == len(HEAD))
        or not tables >= _LANDMARKS
    ):
        return "foreign"
    if current == HEAD:
        return "current"
    return "older" if current < HEAD else "newer"


def _tables(connection: Connection) -> set[str]:
    """Return the names of all tables, without those of the database itself and of PostgreSQL's extensions."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite|_%' ESCAPE '|'"
    else:
        query = """
            SELECT relname FROM pg_catalog.pg_class AS c
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        """
    return set(_texts(connection, query))


def _texts(connection: Connection, query: str) -> Iterable[str]:
    from sqlalchemy import text  # a client has no SQLAlchemy

    return connection.scalars(text(query))


def _refusal(found: SchemaState, database: Database) -> SchemaError:
    name = database.shown
    match found.status:
        case "empty":
            return SchemaError(f"there is no registry in {name} yet", hint="fusery admin init")
        case "older":
            return SchemaError(
                f"the database is at {found.current}, this version of fusery needs {found.head}",
                hint="fusery admin db upgrade",
            )
        case "newer":
            return SchemaError(
                f"the database is at {found.current}, this program knows up to {found.head}",
                hint="upgrade fusery: pip install --upgrade fusery",
            )
    at = (
        f"it is at {found.current}, this program knows up to {found.head}"
        if found.current
        else "no version in it"
    )
    return SchemaError(
        f"{name} is not a registry of fusery's: {at}",
        hint="name another database with FUSERY_DATABASE_URL",
    )
