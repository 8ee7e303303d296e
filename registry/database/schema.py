"""The schema's state in a database, and moving it up.  Every use of the registry asks `require` first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SchemaError
from ..record import Record, described

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .connection import Database

HEAD = "0002"  # the newest revision in `fusery.migrations.versions`; a test compares

VERSION_TABLE = "alembic_version"
_LANDMARKS = frozenset({"adapter", "blob", "manifest", "event"})

_EQUAL: set[frozenset[str]] = set()  # SQLite files without differences: comparing one takes 0.25 s

Status = Literal["empty", "current", "older", "newer", "foreign"]


class SchemaState(Record, kw_only=False):
    """What a database holds."""

    current: str | None = described("its revision, or None without one")
    head: str = described("the revision that this version of fusery works with")
    status: Status = described("`empty`, `current`, `older`, `newer`, or `foreign` (not a registry)")


class Upgraded(Record, kw_only=False):
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
    """Refuse a database without the schema of this version; with `may_create`, give it to an empty SQLite file."""
    schema_state = state(database)
    if schema_state.status == "empty" and may_create and database.path is not None:
        upgrade(database)
    elif schema_state.status != "current":
        raise _refusal(schema_state, database)


def upgrade(database: Database) -> SchemaState:
    """Bring the schema to the newest revision in one transaction; return the state before."""
    _require_ours(state(database), database)
    database.make_folder()
    with database.schema_change() as connection:
        before = _inspect(connection)  # again, now that no other process can change it
        _require_ours(before, database)
        if before.status == "empty":
            create(connection)
        elif before.status == "older":
            from alembic import command
            from alembic.config import Config

            config = Config()
            # With the colon: the namespace `fusery` has no folder that Alembic could look into.
            config.set_main_option("script_location", "fusery.migrations:")
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
    return before


def create(connection: Connection) -> None:
    """Make the tables of this version in an empty database, as all migrations would, and record the revision."""
    from sqlalchemy import text

    from ..tables import metadata

    metadata.create_all(connection)
    columns = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    connection.execute(text(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} ({columns})"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')"))


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
        table_differences = list(_differences(compare_metadata(context, metadata)))
        recorded = inspect(connection).get_multi_check_constraints()
        for name, table in metadata.tables.items():
            checks = {str(one.name) for one in table.constraints if isinstance(one, CheckConstraint)}
            for check in checks - {str(one["name"]) for one in recorded.get((None, name), ())}:
                table_differences.append((name, f"the check {check} of {name} is gone"))
    if statements and not table_differences:
        _EQUAL.add(statements)
    return sorted(table_differences)


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


def _inspect(connection: Connection) -> SchemaState:
    from sqlalchemy import text  # a client has no SQLAlchemy

    # Without the tables of the database itself and of PostgreSQL's extensions.
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite|_%' ESCAPE '|'"
    else:
        query = """
            SELECT relname FROM pg_catalog.pg_class AS c
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        """
    tables, versions = set(connection.scalars(text(query))), list[Any]()
    if VERSION_TABLE in tables:
        versions = list(connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")))
    # SQLite keeps bytes, numbers and nothing as well, where somebody put them instead of a text.
    texts = [one if isinstance(one, str) else repr(one)[:40] for one in versions]
    current = texts[0] if len(texts) == 1 else None
    status: Status = "foreign" if tables - {VERSION_TABLE} or current is not None else "empty"
    if current is not None and tables >= _LANDMARKS and re.fullmatch(rf"[0-9]{{{len(HEAD)}}}", current):
        status = "current" if current == HEAD else "older" if current < HEAD else "newer"
    return SchemaState(current, HEAD, status)


def _require_ours(schema_state: SchemaState, database: Database) -> None:
    if schema_state.status in ("newer", "foreign"):
        raise _refusal(schema_state, database)


def _refusal(schema_state: SchemaState, database: Database) -> SchemaError:
    problem = f"the database is at {schema_state.current}, this version of fusery needs {schema_state.head}"
    match schema_state.status:
        case "empty":
            hint = "fusery admin init" if database.path is None else "fusery base add MODEL"
            return SchemaError(f"there is no registry in {database.shown} yet", hint=hint)
        case "older":
            return SchemaError(problem, hint="fusery admin db upgrade")
        case "newer":
            return SchemaError(problem, hint="upgrade fusery: pip install --upgrade fusery")
    hint = "name another database with FUSERY_DATABASE_URL"
    problem = f"{database.shown} is not a registry of fusery's: its revision is {schema_state.current}"
    return SchemaError(problem, hint=hint)
