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
SQLITE = {
    "check that lets everything through": (
        REWRITE.format("'CHECK (size >= 0)'", "'CHECK (size >= 0 OR 1)'", "blob"),
        "blob",
        "constraint ck_blob_size",
    ),
    "check in a comment": (
        REWRITE.format("'CHECK (size >= 0)'", "'CHECK (1 /* size >= 0 */)'", "blob"),
        "blob",
        "constraint ck_blob_size",
    ),
    "unique key that replaces": (
        REWRITE.format("'UNIQUE (task_id, name)'", "'UNIQUE (task_id, name) ON CONFLICT REPLACE'", "alias"),
        "alias",
        "constraint uq_alias_task_id_name",
    ),
    "foreign key of another column": (
        REWRITE.format("'REFERENCES adapter (id)'", "'REFERENCES task (id)'", "alias_move"),
        "alias_move",
        "constraint fk_alias_move_from_adapter_id_adapter",
    ),
    "value that may be missing": (
        REWRITE.format("'reason TEXT NOT NULL'", "'reason TEXT'", "alias_move"),
        "alias_move",
        "column reason",
    ),
    "order of letters": (
        REWRITE.format(
            "'name VARCHAR(128) NOT NULL'", "'name VARCHAR(128) COLLATE NOCASE NOT NULL'", "alias"
        ),
        "alias",
        "column name",
    ),
    "index of some rows": (
        "DROP INDEX ix_adapter_digest; CREATE INDEX ix_adapter_digest ON adapter (digest) WHERE id < 0",
        "adapter",
        "index ix_adapter_digest",
    ),
    "index gone": ("DROP INDEX ix_event_at", "event", "index ix_event_at of event is gone"),
    "index more": ("CREATE UNIQUE INDEX one_each ON yank (adapter_id)", "yank", "index one_each"),
    "table more": ("CREATE TABLE shadow (id INTEGER)", "shadow", "is not of this program"),
}
POSTGRESQL = {
    "check gone": (
        "ALTER TABLE blob DROP CONSTRAINT ck_blob_size",
        "blob",
        "constraint ck_blob_size of blob is gone",
    ),
    "check that lets everything through": (
        "ALTER TABLE blob DROP CONSTRAINT ck_blob_size, ADD CONSTRAINT ck_blob_size CHECK (size >= 0 OR true)",
        "blob",
        "constraint ck_blob_size",
    ),
    "check that was never tried": (
        "ALTER TABLE blob DROP CONSTRAINT ck_blob_size, ADD CONSTRAINT ck_blob_size CHECK (size >= 0) NOT VALID",
        "blob",
        "NOT VALID",
    ),
    "unique key later": (
        (
            "ALTER TABLE alias DROP CONSTRAINT uq_alias_task_id_name, "
            "ADD CONSTRAINT uq_alias_task_id_name UNIQUE (task_id, name) DEFERRABLE INITIALLY DEFERRED"
        ),
        "alias",
        "DEFERRABLE",
    ),
    "unique key as an index of some rows": (
        (
            "ALTER TABLE alias DROP CONSTRAINT uq_alias_task_id_name; "
            "CREATE UNIQUE INDEX uq_alias_task_id_name ON alias (task_id, name) WHERE id < 0"
        ),
        "alias",
        "constraint uq_alias_task_id_name of alias is gone",
    ),
    "foreign key that takes rows along": (
        (
            "ALTER TABLE yank DROP CONSTRAINT fk_yank_adapter_id_adapter, ADD CONSTRAINT fk_yank_adapter_id_adapter "
            "FOREIGN KEY (adapter_id) REFERENCES adapter (id) ON DELETE CASCADE"
        ),
        "yank",
        "ON DELETE CASCADE",
    ),
    "value that may be missing": (
        "ALTER TABLE alias_move ALTER COLUMN reason DROP NOT NULL",
        "alias_move",
        "column reason",
    ),
    "order of letters": (
        'ALTER TABLE adapter ALTER COLUMN name TYPE VARCHAR(200) COLLATE "POSIX"',
        "adapter",
        "column name",
    ),
    "unlogged": ("ALTER TABLE event SET UNLOGGED", "event", "unlogged"),
    "table more": ("CREATE TABLE shadow (id INTEGER)", "shadow", "is not of this program"),
}


def said(database: Database, table: str) -> str:
    return "\n".join(one.message for one in differences(database) if one.table == table)


@pytest.mark.parametrize("name", SQLITE)
def test_what_differs_on_sqlite(sqlite_url: str, name: str) -> None:
    statements, table, what = SQLITE[name]
    database = Database.open(sqlite_url)
    assert differences(database) == []
    with closing(sqlite3.connect(str(database.path))) as connection:
        connection.executescript(statements)
    assert what in said(database, table)
    assert any(what in line for line in schema.check(database))
    database.close()


@pytest.mark.parametrize("name", POSTGRESQL)
def test_what_differs_on_postgresql(postgres_url: str, name: str) -> None:
    statements, table, what = POSTGRESQL[name]
    database = Database.open(postgres_url)
    assert differences(database) == []
    with psycopg.connect(postgres_url) as connection:
        connection.execute(statements)  # type: ignore[call-overload]
    assert what in said(database, table)
    assert any(what in line for line in schema.check(database))
    database.close()


def test_nothing_is_left_of_the_comparison(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    differences(database)
    with psycopg.connect(postgres_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").fetchone()
    assert left == (0,)
    database.close()


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
        assert any("the definitions of the tables were not looked at" in note for note in report.notes)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


def test_an_audit_names_what_differs(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        session.execute(text("DROP INDEX ix_event_at"))
    for report in (stocked.upkeep.audit(), stocked.upkeep.audit_all()):
        assert [(one.code, one.subject) for one in report.problems] == [("schema_differs", "table event")]
