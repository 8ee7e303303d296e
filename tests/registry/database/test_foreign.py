"""Databases of other parties: a schema that is not ours is refused before anything of it is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile.databases import SCHEMAS
from hostile.homes import Case
from sqlalchemy import text

from fusery.registry.database import Database, schema
from fusery.registry.database.foreign import require_inert, require_ours
from fusery.registry.errors import DatabaseUnavailableError, SchemaError

OTHER = {
    "sqlite": (("CREATE VIEW more AS SELECT 1", "DROP VIEW more"),),
    "postgresql": (
        ("ALTER TABLE curve_point RENAME TO b; CREATE VIEW curve_point AS SELECT * FROM b",
         "DROP VIEW curve_point; ALTER TABLE b RENAME TO curve_point"),
        ("ALTER TABLE event ENABLE ROW LEVEL SECURITY", "ALTER TABLE event DISABLE ROW LEVEL SECURITY"),
        ("CREATE FUNCTION length(varchar) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
         "DROP FUNCTION length(varchar)"),
        # PostgreSQL remembers for a while that a table had rules: this comes last.
        ("CREATE RULE more AS ON INSERT TO task DO INSTEAD NOTHING", "DROP RULE more ON task"),
    ),
}  # fmt: skip
"""What makes a schema another's, and what takes it back."""


@pytest.mark.parametrize("case", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_of_others_is_refused(case: Case, sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copyfile(sqlite_template, tmp_path / "fusery.db")
    stage: Any = SimpleNamespace(other=tmp_path)
    case.make(stage)
    database = Database.open(f"sqlite:///{tmp_path / 'fusery.db'}", foreign=True)
    with pytest.raises((SchemaError, DatabaseUnavailableError)):
        require_inert(database)
        schema.require(database, may_create=False)
        require_ours(database)


def test_ours_is_accepted_and_one_of_others_refused(empty_url: str) -> None:
    database = Database.open(empty_url)
    schema.upgrade(database)
    for statements in OTHER[database.dialect]:
        require_inert(database)
        require_ours(database)
        for statement, inert in zip(statements, (False, True), strict=True):
            with database.schema_change() as connection:
                connection.execute(text(statement))
            if not inert:
                with pytest.raises(SchemaError):
                    require_inert(database)
    database.close()
