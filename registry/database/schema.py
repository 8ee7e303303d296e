"""The schema's state in a database, and moving it up.  Alembic is imported only where something has to be moved.

Every use of the registry asks `require` first, so that neither an older nor a newer program ever writes into a schema
it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from ..errors import SchemaError
from ..record import Record
from .connection import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0020"
"""The newest revision in `fusery.migrations.versions`; a test compares."""

VERSION_TABLE = "alembic_version"
_LANDMARKS = frozenset({"adapter", "blob", "manifest", "event"})

Status = Literal["empty", "current", "older", "newer", "foreign"]


@dataclass(frozen=True, slots=True)
class SchemaState(Record):
    """What a database holds.

    Attributes:
        current: its revision, or None where there is none.
        head: the revision that this version of fusery works with.
        status: `empty` (nothing yet), `current`, `older`, `newer`, or `foreign` (not a registry of fusery's).
    """

    current: str | None
    head: str
    status: Status


def state(database: Database) -> SchemaState:
    """Return what a database holds, without changing anything; a missing SQLite file is `empty` and stays missing.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    if database.path is not None and not database.path.exists():
        return SchemaState(None, HEAD, "empty")
    with database.read() as session:
        return _inspect(session.connection())


def require(database: Database, *, may_create: bool) -> None:
    """Make sure that the database has the schema of this version of fusery.

    Args:
        database: the database.
        may_create: give an empty SQLite file the schema, and make the file and its folder, without being asked.

    Raises:
        SchemaError: the schema is older, newer, missing, or not fusery's; nothing was written.
        DatabaseUnavailableError: the database does not answer.
    """
    found = state(database)
    if found.status == "current":
        return
    if found.status == "empty" and may_create and database.path is not None:
        upgrade(database)
        return
    raise _refusal(found, database)


def upgrade(
    database: Database, *, afterwards: Callable[[Session, str | None], None] = lambda session, since: None
) -> SchemaState:
    """Bring the schema to the newest revision in one transaction; return the state before.

    Args:
        database: the database.
        afterwards: what else is to be done in that transaction; told the revision before.

    Raises:
        SchemaError: the database is newer, or not fusery's; nothing was written.
        DatabaseUnavailableError: the database does not answer, or another process is writing for too long.
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
            with Session(bind=connection) as session:
                afterwards(session, before.current)
                session.flush()
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
    """Return the differences between the tables in the database and those that the program makes.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    from .definitions import differences

    return [found.message for found in differences(database)]


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
        found = connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}"))
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
    return set(connection.scalars(text(query)))


def _refusal(found: SchemaState, database: Database) -> SchemaError:
    name = database.shown
    match found.status:
        case "empty":
            return SchemaError(f"there is no registry in {name} yet", hint="fusery init")
        case "older":
            return SchemaError(
                f"the database is at {found.current}, this version of fusery needs {found.head}",
                hint="fusery db upgrade",
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
