"""A database of another party: what its schema would do by itself, and whether its tables are ours.

The schema of a database is a program that runs in whoever reads it: a view without end in the place of a table, a generated
column, a trigger.  So nothing of such a database is read before its schema was looked at, and little is believed of it
afterwards: `exchange` holds every value against what may be recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, Connection, text

from ..errors import DatabaseUnavailableError, SchemaError
from . import statements
from .functions import FUNCTIONS

if TYPE_CHECKING:
    from .connection import Database

_KINDS = """
SELECT c.relname, c.relkind::pg_catalog.text, c.relrowsecurity, c.relhasrules
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')
"""
_SHADOWS = """
SELECT p.proname FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = :schema AND p.proname <> ALL (:ours)
    AND EXISTS (SELECT FROM pg_catalog.pg_proc AS q WHERE q.proname = p.proname
                AND q.pronamespace = 'pg_catalog'::pg_catalog.regnamespace)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT o.oprname FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
WHERE n.nspname = :schema
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND d.objid = o.oid AND d.deptype = 'e')
"""
"""Functions that would be called instead of PostgreSQL's own, since their types fit better, and operators."""


def require_inert(database: Database) -> None:
    """Refuse a schema that computes something by itself, before anything of it is read.

    Raises:
        SchemaError: it has a view, a rule, a trigger of its own ...
        DatabaseUnavailableError: the database does not answer.
    """
    with database.read() as session:
        connection = session.connection()
        look = _sqlite_strangeness if database.dialect == "sqlite" else _postgresql_strangeness
        if (found := look(connection)) is not None:
            raise _refusal(database, found)


def require_ours(database: Database) -> None:
    """Refuse a database at our revision whose tables are not as our schema makes them, or whose pages are damaged.

    Raises:
        SchemaError: a table is missing, or has other columns or conditions.
        DatabaseUnavailableError: the database is damaged or does not answer.
    """
    from sqlalchemy import inspect

    from ..tables import metadata

    with database.read() as session:
        connection = session.connection()
        found = inspect(connection)
        for table in metadata.sorted_tables:
            columns = (
                {column["name"] for column in found.get_columns(table.name)}
                if found.has_table(table.name)
                else set()
            )
            if columns != set(table.columns.keys()):
                raise _refusal(database, f"a table {table.name} with other columns")
        if database.dialect == "sqlite":
            _require_sqlite(connection, database)


def _sqlite_strangeness(connection: Connection) -> str | None:
    for name, statement in _statements(connection):
        if (found := statements.strange_part(name, statement)) is not None:
            return found
    return None


def _statements(connection: Connection) -> list[tuple[str, str]]:
    query = text(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite|_%' ESCAPE '|'"
    )
    return [(str(row.name), str(row.sql)) for row in connection.execute(query)]


def _require_sqlite(connection: Connection, database: Database) -> None:
    from ..tables import metadata

    for name, statement in _statements(connection):
        table = metadata.tables.get(name)
        known = (
            [] if table is None else [one for one in table.constraints if isinstance(one, CheckConstraint)]
        )
        ours = {tuple(statements.words(str(one.sqltext))) for one in known}
        if table is not None and not set(statements.checks(statement)) <= ours:
            raise _refusal(database, f"a condition of its own on the table {name}")
    # Pages that lie in a circle, or are used many times over, would be read without end.
    for question in ("quick_check(1)", "foreign_key_check"):
        answer = connection.exec_driver_sql(f"PRAGMA {question}").first()
        if answer is not None and answer[0] != "ok":
            raise DatabaseUnavailableError(
                f"the database {database.shown} is damaged: its rows do not fit together",
                hint="let its owner run: fusery audit, there",
            )


def _postgresql_strangeness(connection: Connection) -> str | None:
    from ..tables import metadata

    schema = connection.scalar(text("SELECT pg_catalog.current_schema()"))
    if schema is None:
        return None
    # From here on only PostgreSQL's own functions and operators are found.
    before = connection.scalar(text("SELECT pg_catalog.current_setting('search_path')"))
    connection.execute(text("SET LOCAL search_path = pg_catalog"))
    ours = {*metadata.tables, "alembic_version"}
    for name, kind, policies, rules in connection.execute(text(_KINDS), {"schema": schema}):
        if name in ours and kind not in ("r", "p"):
            return f"something else in the place of the table {name}"
        if name in ours and (rules or policies):
            return f"rules of its own on the table {name}"
    shadow = connection.scalar(text(_SHADOWS), {"schema": schema, "ours": list(FUNCTIONS)})
    if shadow is not None:
        return f"{str(shadow)[:60]!r}, which would be called instead of PostgreSQL's own"
    connection.execute(text("SELECT pg_catalog.set_config('search_path', :path, true)"), {"path": before})
    return None


def _refusal(database: Database, what: str) -> SchemaError:
    return SchemaError(
        f"{database.shown} is not a registry as fusery makes it: it holds {what}",
        hint="ask its owner what that is for; nothing of it was read",
    )
