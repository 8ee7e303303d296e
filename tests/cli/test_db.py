"""`fusery admin db`, and what every other command says of a database that an older release made."""

from __future__ import annotations

from pathlib import Path

import pytest
from database_facts import all_rows
from fixture_types import Fusery
from sqlalchemy import text

from fusery.registry.database import Database, schema

OLDER = f"""\
Error: the database is at 0000, this version of fusery needs {schema.HEAD}
Hint: fusery admin db upgrade
"""


@pytest.fixture
def older(stocked: Fusery, tmp_path: Path) -> Fusery:
    """The command line on a registry whose database says that it is of an older version."""
    database = Database.open(f"sqlite:///{tmp_path}/home/fusery.db")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    database.close()
    return stocked


def test_every_command_asks_for_the_upgrade(older: Fusery, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/home/fusery.db")
    before = all_rows(database)
    for words in ("list", "admin init", "fuse course_rec@1", "base add tiny", "audit", "admin db check"):
        ran = older(*words.split())
        assert (ran.code, ran.out, ran.err) == (2, "", OLDER), words
    assert all_rows(database) == before
    assert schema.state(database).current == "0000"
    database.close()
    assert older("list", "--json").json["error"]["hint"] == "fusery admin db upgrade"
    current = older("admin", "db", "current", "--json").json
    assert current == {"current": "0000", "head": schema.HEAD, "status": "older"}
    checks = {check["name"]: check for check in older("doctor", "--json").json["checks"]}
    assert (checks["database"]["status"], checks["database"]["hint"]) == (
        "problem",
        "fusery admin db upgrade",
    )
