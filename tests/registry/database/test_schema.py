"""The schema: made, upgraded, compared with the tables, refused where it must be, and whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from database_facts import snapshot
from database_workers import upgrade, upgrade_with
from sqlalchemy import text

import fusery.migrations
from fusery.registry import Registry
from fusery.registry.database import Database, schema
from fusery.registry.errors import SchemaError

pytestmark = pytest.mark.timing
MIGRATIONS = Path(fusery.migrations.__path__[0]).resolve()


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database.open(empty_url)
    yield database
    database.close()


def execute(database: Database, *statements: str) -> None:
    database.make_folder()
    with database.schema_change() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_there_is_one_head_and_the_program_knows_it() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_an_upgrade_makes_the_tables_once(empty: Database) -> None:
    assert schema.state(empty) == schema.SchemaState(None, schema.HEAD, "empty")
    for before in ("empty", "current"):
        assert schema.upgrade(empty).status == before
        assert schema.state(empty) == schema.SchemaState(schema.HEAD, schema.HEAD, "current")
        assert schema.differences(empty) == []


ANYWHERE = {
    "DROP INDEX ix_adapter_digest": ("adapter", "index ix_adapter_digest of adapter is gone"),
    "CREATE UNIQUE INDEX one_each ON yank (adapter_id)": ("yank", "index one_each of yank is not of this"),
    "ALTER TABLE adapter ADD COLUMN surplus INTEGER": ("adapter", "column surplus of adapter is not of this"),
    "ALTER TABLE adapter DROP COLUMN note": ("adapter", "column note of adapter is gone"),
    "DROP TABLE curve_point": ("curve_point", "table curve_point is gone"),
}
POSTGRESQL = {
    "ALTER TABLE alias_move ALTER COLUMN reason DROP NOT NULL": ("alias_move", "column reason"),
    "ALTER TABLE alias DROP CONSTRAINT uq_alias_task_id_name": ("alias", "uq_alias_task_id_name"),
    "ALTER TABLE yank DROP CONSTRAINT fk_yank_adapter_id_adapter": ("yank", "fk_yank_adapter_id_adapter"),
    "ALTER TABLE blob DROP CONSTRAINT ck_blob_size": ("blob", "check ck_blob_size"),
    "ALTER TABLE adapter ALTER COLUMN name TYPE TEXT": ("adapter", "column name"),
}


def test_differences_name_the_table_and_what_differs(database: Database) -> None:
    execute(database, "CREATE TABLE of_others (id INTEGER)")
    assert schema.differences(database) == []
    statements = ANYWHERE if database.dialect == "sqlite" else {**ANYWHERE, **POSTGRESQL}
    execute(database, *statements)
    found = schema.differences(database)
    assert len(found) == len(statements)
    for table, message in statements.values():
        assert any(name == table and message in difference for name, difference in found), message


def test_an_audit_names_what_differs(stocked: Registry) -> None:
    execute(stocked.workspace.database, "DROP INDEX ix_event_at")
    for report in (stocked.upkeep.audit(), stocked.upkeep.audit()):
        assert [(one.code, one.subject) for one in report.problems] == [("schema_differs", "table event")]


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
    assert caught.value.hint == ("fusery admin init" if empty.path is None else "fusery base add MODEL")
    if empty.path is None:
        with pytest.raises(SchemaError):
            schema.require(empty, may_create=True)
        assert schema.state(empty).status == "empty"
    else:
        schema.require(empty, may_create=True)
        assert schema.state(empty).status == "current"


BREAKS = {
    "raise RuntimeError('halfway')": "halfway",
    "os.kill(os.getpid(), signal.SIGKILL)": "",
    "op.execute('nonsense')": "nonsense",
}
"""What a migration does, and what is said then."""


def test_a_migration_that_breaks_leaves_nothing(empty: Database, empty_url: str, tmp_path: Path) -> None:
    schema.upgrade(empty)
    before = snapshot(empty)
    following = f"{int(schema.HEAD) + 1:04}"
    for number, (body, words) in enumerate(BREAKS.items()):
        migrations, said = tmp_path / f"migrations-{number}", tmp_path / f"said-{number}"
        shutil.copytree(MIGRATIONS, migrations)
        (migrations / "versions" / f"{following}_breaks.py").write_text(
            f"import sqlalchemy as sa\nfrom alembic import op\nimport os, signal\n"
            f"revision, down_revision = '{following}', '{schema.HEAD}'\n"
            f"def upgrade():\n    op.create_table('half', sa.Column('id', sa.Integer()))\n    {body}\n"
        )
        process = programs.CONTEXT.Process(target=upgrade_with, args=(empty_url, str(migrations), str(said)))
        process.start()
        process.join()
        assert process.exitcode == (1 if words else -9)
        assert words in said.read_text()
        assert schema.state(empty).status == "current", body
        assert snapshot(empty) == before, body


def test_upgrades_at_once_take_turns(empty: Database, empty_url: str, tmp_path: Path) -> None:
    told = [tmp_path / f"told-{number}" for number in range(4)]
    running = [programs.CONTEXT.Process(target=upgrade, args=(empty_url, str(path))) for path in told]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert sorted(path.read_text() for path in told) == ["current"] * 3 + ["empty"]
    assert schema.differences(empty) == []


def test_a_migration_that_would_leave_dangling_rows_is_rolled_back(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    execute(
        database,
        "INSERT INTO manifest (id, digest, size) VALUES (1, 'a', 0)",
        "INSERT INTO manifest_file (manifest_id, path, size, sha256) VALUES (1, 'x', 0, 'b')",
    )
    with pytest.raises(SchemaError, match="manifest_file"):
        execute(database, "DELETE FROM manifest")
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM manifest")) == 1
    database.close()
