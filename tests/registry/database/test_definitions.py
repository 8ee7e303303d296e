"""Tables whose constraints and indexes still have their names, and do nothing any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import psycopg
import pytest
from registry.conftest import open_registry
from sqlalchemy import make_url, text

from fusery.registry import Registry
from fusery.registry.database import Database, schema
from fusery.registry.database.definitions import differences

REWRITE = (
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, {0}, {1}) WHERE name = '{2}'"
)
SQLITE = [
    (
        REWRITE.format("'CHECK (size >= 0)'", "'CHECK (1 /* size >= 0 */)'", "blob"),
        "blob",
        "constraint ck_blob_size",
    ),
    (
        REWRITE.format("'UNIQUE (task_id, name)'", "'UNIQUE (task_id, name) ON CONFLICT REPLACE'", "alias"),
        "alias",
        "constraint uq_alias_task_id_name",
    ),
    (REWRITE.format("'reason TEXT NOT NULL'", "'reason TEXT'", "alias_move"), "alias_move", "column reason"),
    (
        "DROP INDEX ix_adapter_digest; CREATE INDEX ix_adapter_digest ON adapter (digest) WHERE id < 0",
        "adapter",
        "index ix_adapter_digest",
    ),
    ("CREATE UNIQUE INDEX one_each ON yank (adapter_id)", "yank", "index one_each"),
    ("CREATE TABLE shadow (id INTEGER)", "shadow", "shadow"),
]


def anew(table: str, name: str, rest: str) -> str:
    """Return the SQL that makes a constraint of PostgreSQL anew."""
    return f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {rest}"


SIZE, NAME, YANK = "ck_blob_size", "uq_alias_task_id_name", "fk_yank_adapter_id_adapter"
POSTGRESQL = [
    (anew("blob", SIZE, "CHECK (size >= 0 OR true)"), "blob", SIZE),
    (anew("blob", SIZE, "CHECK (size >= 0) NOT VALID"), "blob", "NOT VALID"),
    (anew("alias", NAME, "UNIQUE (task_id, name) DEFERRABLE INITIALLY DEFERRED"), "alias", "DEFERRABLE"),
    (
        f"ALTER TABLE alias DROP CONSTRAINT {NAME}; CREATE UNIQUE INDEX {NAME} ON alias (task_id, name) WHERE id < 0",
        "alias",
        NAME,
    ),
    (
        anew("yank", YANK, "FOREIGN KEY (adapter_id) REFERENCES adapter (id) ON DELETE CASCADE"),
        "yank",
        "ON DELETE CASCADE",
    ),
    ("ALTER TABLE alias_move ALTER COLUMN reason DROP NOT NULL", "alias_move", "column reason"),
    ('ALTER TABLE adapter ALTER COLUMN name TYPE VARCHAR(200) COLLATE "POSIX"', "adapter", "column name"),
    ("ALTER TABLE event SET UNLOGGED", "event", "unlogged"),
    ("CREATE TABLE shadow (id INTEGER)", "shadow", "shadow"),
]


def said(database: Database, table: str) -> str:
    return "\n".join(one.message for one in differences(database) if one.table == table)


@pytest.mark.parametrize(("statements", "table", "what"), SQLITE)
def test_what_differs_on_sqlite(sqlite_url: str, statements: str, table: str, what: str) -> None:
    database = Database.open(sqlite_url)
    assert differences(database) == []
    with closing(sqlite3.connect(str(database.path))) as connection:
        connection.executescript(statements)
    assert what in said(database, table)
    assert any(what in line for line in schema.check(database))
    database.close()


@pytest.mark.parametrize(("statements", "table", "what"), POSTGRESQL)
def test_what_differs_on_postgresql(postgres_url: str, statements: str, table: str, what: str) -> None:
    database = Database.open(postgres_url)
    assert differences(database) == []
    with psycopg.connect(postgres_url) as connection:
        connection.execute(statements)  # type: ignore[call-overload]
    assert what in said(database, table)
    assert any(what in line for line in schema.check(database))
    database.close()
    # Nothing is left of the comparison.
    with psycopg.connect(postgres_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").fetchone()
    assert left == (0,)


def test_whoever_may_make_no_temporary_table_is_told_so(tmp_path: Path, postgres_url: str) -> None:
    """The audit goes through, and says what it has not looked at."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        row = connection.execute("SELECT quote_ident(current_database())").fetchone()
        assert row is not None
        run = cast(Callable[[str], object], connection.execute)
        run(f"REVOKE TEMPORARY ON DATABASE {row[0]} FROM PUBLIC")
        run("CREATE ROLE auditor LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
    try:
        with open_registry(tmp_path / "home", postgres_url) as registry:
            registry.init()
        url = make_url(postgres_url).set(username="auditor").render_as_string(hide_password=False)
        with open_registry(tmp_path / "home", url) as registry:
            report = registry.upkeep.audit()
        assert report.problems == []
        assert any("tables" in note for note in report.notes)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


def test_an_audit_names_what_differs(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        session.execute(text("DROP INDEX ix_event_at"))
    for report in (stocked.upkeep.audit(), stocked.upkeep.audit_all()):
        assert [(one.code, one.subject) for one in report.problems] == [("schema_differs", "table event")]
