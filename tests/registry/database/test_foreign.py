"""Databases of other parties: a schema that is not ours is refused before anything of it is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile.databases import SCHEMAS
from hostile.homes import Case

from fusery.registry.database import Database, schema
from fusery.registry.database.foreign import require_inert, require_ours
from fusery.registry.errors import DatabaseUnavailableError, SchemaError


@pytest.mark.parametrize("case", SCHEMAS.values(), ids=SCHEMAS)
def test_our_schema_is_accepted_and_one_of_others_refused(
    case: Case, sqlite_template: Path, tmp_path: Path
) -> None:
    shutil.copyfile(sqlite_template, tmp_path / "fusery.db")
    stage: Any = SimpleNamespace(other=tmp_path)
    database = Database.open(f"sqlite:///{tmp_path / 'fusery.db'}", foreign=True)
    require_inert(database)
    require_ours(database)
    database.close()
    case.make(stage)
    with pytest.raises((SchemaError, DatabaseUnavailableError)):
        require_inert(database)
        schema.require(database, may_create=False)
        require_ours(database)
