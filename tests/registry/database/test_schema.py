"""Migrations: up, down, compared with the tables, refused where they must be, and whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
from database_facts import snapshot
from database_workers import upgrade, upgrade_with
from sqlalchemy import text

import fusery.migrations
from fusery.registry import tables
from fusery.registry.database import Database, schema
from fusery.registry.errors import SchemaError

pytestmark = [pytest.mark.usefixtures("every_migration"), pytest.mark.timing]
MIGRATIONS = Path(fusery.migrations.__path__[0]).resolve()


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database.open(empty_url)
    yield database
    database.close()


def execute(database: Database, *statements: str) -> None:
    database.make_folder()
    with database.write() as session:
        for statement in statements:
            session.execute(text(statement))


def test_there_is_one_head_and_the_program_knows_it() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_migrations_make_exactly_the_tables_of_the_program(empty: Database, empty_url: str) -> None:
    with empty.schema_change() if empty.path is None else _in_folder(empty) as connection:
        tables.metadata.create_all(connection)
    expected = snapshot(empty)
    with empty.schema_change() as connection:
        tables.metadata.drop_all(connection)
    assert schema.state(empty) == schema.SchemaState(None, schema.HEAD, "empty")
    assert schema.upgrade(empty).status == "empty"
    assert schema.state(empty) == schema.SchemaState(schema.HEAD, schema.HEAD, "current")
    assert schema.upgrade(empty).status == "current"
    assert schema.check(empty) == []
    migrated = snapshot(empty)
    schema.downgrade(empty, "base")
    assert set(snapshot(empty)) == {schema.VERSION_TABLE}
    assert schema.state(empty).status == "empty"
    schema.upgrade(empty)
    assert snapshot(empty) == migrated
    del migrated[schema.VERSION_TABLE]
    assert migrated == expected


def _in_folder(database: Database) -> Any:
    database.make_folder()
    return database.schema_change()


def test_check_names_what_differs(database: Database) -> None:
    execute(database, "ALTER TABLE adapter ADD COLUMN surplus INTEGER", "DROP INDEX ix_adapter_digest")
    found = schema.check(database)
    assert len(found) == 2
    assert any("surplus" in line for line in found)
    assert any("ix_adapter_digest" in line for line in found)


@pytest.mark.parametrize(
    ("version", "status", "hint"),
    [
        ("9999", "newer", "--upgrade fusery"),
        ("0000", "older", "fusery admin db upgrade"),
        ("ae1027a6acf", "foreign", "FUSERY_DATABASE_URL"),
    ],
)
def test_another_revision_is_refused(database: Database, version: str, status: str, hint: str) -> None:
    execute(database, f"UPDATE alembic_version SET version_num = '{version}'")
    before = snapshot(database)
    assert schema.state(database).status == status
    for may_create in (False, True):
        with pytest.raises(SchemaError, match=version) as caught:
            schema.require(database, may_create=may_create)
        assert hint in (caught.value.hint or "")
    if status != "older":
        with pytest.raises(SchemaError, match=version):
            schema.upgrade(database)
    assert snapshot(database) == before
    assert schema.state(database).current == version


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE invoices (id INTEGER)"],
        ["CREATE TABLE blob (digest INTEGER)"],
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('0001'), ('0002')",
            "CREATE TABLE users (id INTEGER)",
        ],
    ],
    ids=["tables of others", "half a schema", "two revisions"],
)
def test_a_foreign_database_is_refused_untouched(empty: Database, statements: list[str]) -> None:
    execute(empty, *statements)
    before = snapshot(empty)
    assert schema.state(empty).status == "foreign"
    with pytest.raises(SchemaError):
        schema.require(empty, may_create=True)
    with pytest.raises(SchemaError):
        schema.upgrade(empty)
    assert snapshot(empty) == before


def test_require_creates_only_an_embedded_database(empty: Database) -> None:
    with pytest.raises(SchemaError) as caught:
        schema.require(empty, may_create=False)
    assert empty.path is None or not empty.path.parent.exists()
    assert caught.value.hint == "fusery admin init"
    if empty.path is None:
        with pytest.raises(SchemaError):
            schema.require(empty, may_create=True)
        assert schema.state(empty).status == "empty"
    else:
        schema.require(empty, may_create=True)
        assert schema.state(empty).status == "current"


def broken_migrations(folder: Path, body: str) -> Path:
    """Return a copy of the migrations with one more that does `body` after it has made a table."""
    copy = folder / "migrations"
    shutil.copytree(MIGRATIONS, copy)  # compiled as they may be
    following = f"{int(schema.HEAD) + 1:04}"
    (copy / "versions" / f"{following}_breaks.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nimport os, signal\n"
        f"revision, down_revision = '{following}', '{schema.HEAD}'\n"
        f"def upgrade():\n    op.create_table('half', sa.Column('id', sa.Integer()))\n    {body}\n"
        f"def downgrade():\n    pass\n"
    )
    return copy


BREAKS = {
    "raise RuntimeError('halfway')": "halfway",
    "os.kill(os.getpid(), signal.SIGKILL)": "",
    "op.execute('nonsense')": "nonsense",
}
"""What a migration does, and what is said then."""


@pytest.mark.parametrize("start", ["empty", "current"])
def test_a_migration_that_breaks_leaves_nothing(
    empty: Database, empty_url: str, tmp_path: Path, start: str
) -> None:
    if start != "empty":
        schema.upgrade(empty)
    before, tables_before = schema.state(empty), snapshot(empty)
    assert before.status == start
    for number, (body, words) in enumerate(BREAKS.items()):
        migrations = broken_migrations(tmp_path / str(number), body)
        said = tmp_path / f"said-{number}"
        process = programs.CONTEXT.Process(target=upgrade_with, args=(empty_url, str(migrations), str(said)))
        process.start()
        process.join()
        assert process.exitcode == (1 if words else -9)
        assert words in said.read_text()
        assert schema.state(empty) == before, body
        assert snapshot(empty) == tables_before, body
    assert schema.upgrade(empty).status == before.status
    assert schema.state(empty).status == "current"


def test_upgrades_at_once_take_turns(empty: Database, empty_url: str, tmp_path: Path) -> None:
    told = [tmp_path / f"told-{number}" for number in range(4)]
    running = [programs.CONTEXT.Process(target=upgrade, args=(empty_url, str(path))) for path in told]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert sorted(path.read_text() for path in told) == ["current"] * 3 + ["empty"]
    assert schema.check(empty) == []


def test_a_migration_that_would_leave_dangling_rows_is_rolled_back(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    execute(database, "INSERT INTO manifest (id, digest, size) VALUES (1, 'a', 0)")
    execute(database, "INSERT INTO manifest_file (manifest_id, path, size, sha256) VALUES (1, 'x', 0, 'b')")
    with pytest.raises(SchemaError, match="manifest_file"), database.schema_change() as connection:
        connection.execute(text("DELETE FROM manifest"))
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM manifest")) == 1
    database.close()
