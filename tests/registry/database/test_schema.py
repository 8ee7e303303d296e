"""Migrations: up, down, compared with the tables, refused where they must be, and whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ready_processes
from breaking_upgrades import upgrade, upgrade_with
from database_facts import migrate_to, snapshot
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

import fusery.migrations
from fusery.registry import tables
from fusery.registry.database import Database, schema
from fusery.registry.errors import SchemaError

pytestmark = pytest.mark.usefixtures("every_migration")
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


def test_up_from_nothing(empty: Database) -> None:
    assert schema.state(empty) == schema.SchemaState(None, schema.HEAD, "empty")
    assert schema.upgrade(empty).status == "empty"
    assert schema.state(empty) == schema.SchemaState(schema.HEAD, schema.HEAD, "current")
    assert schema.upgrade(empty).status == "current"
    assert schema.check(empty) == []


def test_looking_makes_no_file(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/fusery.db")
    assert schema.state(database).status == "empty"
    with pytest.raises(SchemaError):
        schema.require(database, may_create=False)
    assert list(tmp_path.iterdir()) == []


def test_migrations_make_exactly_the_tables_of_the_program(empty: Database, empty_url: str) -> None:
    with empty.schema_change() if empty.path is None else _in_folder(empty) as connection:
        tables.metadata.create_all(connection)
    expected = snapshot(empty)
    with empty.schema_change() as connection:
        tables.metadata.drop_all(connection)
    schema.upgrade(empty)
    migrated = snapshot(empty)
    del migrated[schema.VERSION_TABLE]
    assert migrated == expected


def _in_folder(database: Database) -> Any:
    database.make_folder()
    return database.schema_change()


def test_up_down_up(empty: Database) -> None:
    schema.upgrade(empty)
    first = snapshot(empty)
    schema.downgrade(empty, "base")
    assert set(snapshot(empty)) == {schema.VERSION_TABLE}
    assert schema.state(empty).status == "empty"
    schema.upgrade(empty)
    assert snapshot(empty) == first


def test_check_names_what_differs(database: Database) -> None:
    execute(database, "ALTER TABLE adapter ADD COLUMN surplus INTEGER", "DROP INDEX ix_adapter_digest")
    found = schema.check(database)
    assert len(found) == 2
    assert any("surplus" in line for line in found)
    assert any("ix_adapter_digest" in line for line in found)


@pytest.mark.parametrize(
    ("version", "status", "said", "hint"),
    [
        ("9999", "newer", f"is at 9999, this program knows up to {schema.HEAD}", "--upgrade fusery"),
        ("0000", "older", f"is at 0000, this version of fusery needs {schema.HEAD}", "fusery db upgrade"),
        ("ae1027a6acf", "foreign", "it is at ae1027a6acf", "FUSERY_DATABASE_URL"),
    ],
    ids=["newer", "older", "foreign"],
)
def test_another_revision_is_refused(
    database: Database, version: str, status: str, said: str, hint: str
) -> None:
    execute(database, f"UPDATE alembic_version SET version_num = '{version}'")
    before = snapshot(database)
    assert schema.state(database).status == status
    for may_create in (False, True):
        with pytest.raises(SchemaError, match=said) as caught:
            schema.require(database, may_create=may_create)
        assert hint in (caught.value.hint or "")
    if status != "older":
        with pytest.raises(SchemaError, match=said):
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
            f"INSERT INTO alembic_version VALUES ('{schema.HEAD}')",
            "CREATE TABLE users (id INTEGER)",
        ],
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('0001'), ('0002')",
            "CREATE TABLE users (id INTEGER)",
        ],
    ],
    ids=["tables of others", "half a schema", "same revision of another program", "two revisions"],
)
def test_a_foreign_database_is_refused_untouched(empty: Database, statements: list[str]) -> None:
    execute(empty, *statements)
    before = snapshot(empty)
    assert schema.state(empty).status == "foreign"
    with pytest.raises(SchemaError, match="not a registry"):
        schema.require(empty, may_create=True)
    with pytest.raises(SchemaError, match="not a registry"):
        schema.upgrade(empty)
    assert snapshot(empty) == before


def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (id INTEGER)")
        other.commit()
    before = path.read_bytes()
    database = Database.open(f"sqlite:///{path}")
    for refused in (lambda: schema.require(database, may_create=True), lambda: schema.upgrade(database)):
        with pytest.raises(SchemaError, match="not a registry"):
            refused()
    database.close()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_require_creates_only_an_embedded_database(empty: Database) -> None:
    with pytest.raises(SchemaError, match="no registry") as caught:
        schema.require(empty, may_create=False)
    assert caught.value.hint == "fusery init"
    if empty.path is None:
        with pytest.raises(SchemaError, match="no registry"):
            schema.require(empty, may_create=True)
        assert schema.state(empty).status == "empty"
    else:
        schema.require(empty, may_create=True)
        assert schema.state(empty).status == "current"


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_a_current_database_is_accepted_without_alembic(database_url: str) -> None:
    code = """
import sys
from fusery.registry.database import Database, schema
schema.require(Database.open(sys.argv[1]), may_create=True)
sys.exit(sorted(name for name in ("alembic", "tenacity", "mako", "fusery.registry.tables") if name in sys.modules))
"""
    done = run_python(code, database_url)
    assert (done.returncode, done.stderr.strip()) == (1, "[]")


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


@pytest.mark.parametrize("start", ["empty", "older", "current"])
def test_a_migration_that_breaks_leaves_nothing(
    empty: Database, empty_url: str, tmp_path: Path, start: str
) -> None:
    if start != "empty":
        migrate_to(empty, "0001" if start == "older" else schema.HEAD)
    before, tables_before = schema.state(empty), snapshot(empty)
    assert before.status == start
    for number, (body, words) in enumerate(BREAKS.items()):
        migrations = broken_migrations(tmp_path / str(number), body)
        said = tmp_path / f"said-{number}"
        process = ready_processes.CONTEXT.Process(
            target=upgrade_with, args=(empty_url, str(migrations), str(said))
        )
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
    running = [ready_processes.CONTEXT.Process(target=upgrade, args=(empty_url, str(path))) for path in told]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert sorted(path.read_text() for path in told) == ["current"] * 3 + ["empty"]
    assert schema.check(empty) == []


def test_the_alembic_command_of_a_checkout_uses_the_same_hooks(empty: Database, empty_url: str) -> None:
    empty.make_folder()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "alembic", "upgrade", "head"],
        cwd=Path(__file__).parents[3],
        env={"FUSERY_DATABASE_URL": empty_url, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert schema.state(empty).status == "current"


def test_a_migration_that_would_leave_dangling_rows_is_rolled_back(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    execute(database, "INSERT INTO manifest (id, digest, size) VALUES (1, 'a', 0)")
    execute(database, "INSERT INTO manifest_file (manifest_id, path, size, sha256) VALUES (1, 'x', 0, 'b')")
    with pytest.raises(SchemaError, match="manifest_file"), database.schema_change() as connection:
        connection.execute(text("DELETE FROM manifest"))
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM manifest")) == 1
    database.close()


ROWS = """
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights, written_by_mlx,
    created_at, created_by) VALUES (1, 'b', 1, 'a', 'm', 1, 'bf16', 0, '{}', '{}', true, '2026-01-15 00:00:00.000000', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO blob (digest, size, generation, state, created_at) VALUES ('d', 1, 0, 'ready', '2026-01-15 00:00:00.000000')
"""


def adapter(connection: Connection, **changes: Any) -> None:
    values = {
        "id": 1,
        "task_id": 1,
        "version": 1,
        "date": "2026-01-15",
        "name": "course_rec_v1_20260115",
        "base_id": 1,
        "manifest_id": 1,
        "digest": "d",
        "method": "lora",
        "layers": 8,
        "target_modules": "[]",
        "trainable_parameters": 1,
        "total_parameters": 2,
        "training": "{}",
        "created_at": "2026-01-15 00:00:00.000000",
        "created_by": "ann",
        **changes,
    }
    columns = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO adapter ({columns}) VALUES ({marks})"), values)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"id": 2, "name": "other"}, "version"),
        ({"id": 2, "version": 2}, "name"),
        ({"id": 2, "name": "other", "version": 2, "base_id": 9}, "foreign key"),
        ({"id": 2, "name": "other", "version": 2, "method": "magic"}, "ck_adapter_method"),
        ({"id": 2, "name": "other", "version": 0}, "ck_adapter_version"),
        ({"id": 2, "name": "other", "version": 2, "rank": 0}, "ck_adapter_rank"),
    ],
    ids=["task and version", "name", "base", "method", "version", "rank"],
)
def test_constraints_hold(database: Database, changes: dict[str, Any], constraint: str) -> None:
    execute(database, *ROWS.split(";"))
    with database.write() as session:
        adapter(session.connection())
    with pytest.raises(IntegrityError, match=f"(?i){constraint}"), database.write() as session:
        adapter(session.connection(), **changes)
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM adapter")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE blob SET state = 'lost'",
        "UPDATE blob SET size = -1",
        "INSERT INTO manifest_file (manifest_id, path, size, sha256, blob) VALUES (1, 'x', 1, 'e', 'd')",
        "INSERT INTO manifest_file (manifest_id, path, size, sha256, blob) VALUES (1, 'x', 1, 'f', 'f')",
        "INSERT INTO registry (id, store_id, created_at) VALUES (2, 's', '2026-01-15 00:00:00.000000')",
        "DELETE FROM manifest",
    ],
    ids=[
        "state",
        "size",
        "blob of other bytes",
        "blob that is not there",
        "two registries",
        "manifest in use",
    ],
)
def test_constraints_on_bytes_hold(database: Database, statement: str) -> None:
    execute(database, *ROWS.split(";"))
    with pytest.raises(IntegrityError):
        execute(database, statement)
