"""`fusery admin backup`, `restore` and `db`, and what other commands say of an older database."""

from __future__ import annotations

from pathlib import Path

import pytest
from database_facts import all_rows
from fixture_types import Fusery
from sqlalchemy import text

from fusery.registry.database import Database, schema

from .conftest import require_refusals

CANARY = "canary-7e1f-secret"


@pytest.mark.slow
def test_a_backup_is_restored_and_holds_no_secret(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", f'{{"secret": "{CANARY}", "token": "{CANARY}"}}')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    made = stocked("admin", "backup", "saved", "--json")
    restored = stocked("--registry", "new", "admin", "restore", "saved", "--own", "--json")
    assert (made.code, restored.code) == (0, 0)
    assert made.json["path"] == str(tmp_path / "saved")
    assert made.json["copied"] == made.json["blobs"]
    assert restored.json["rows"] == made.json["rows"]
    assert stocked("--registry", "new", "audit").code == 0
    for words in ("list", "log"):
        assert stocked("--registry", "new", words, "--json").json == stocked(words, "--json").json
    assert CANARY not in made.out + made.err
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "other" / "sub").mkdir(parents=True)
    (tmp_path / "other" / "sub" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert stocked("admin", "backup", "empty").code == stocked("admin", "backup", "empty").code == 0
    require_refusals(
        stocked,
        ("admin backup other", "sub/config.json"),
        ("admin restore empty", "--own"),
        *(
            (f"--registry new admin restore {place} --own", "")
            for place in ("nothing", "ftp://host/x", "a::b")
        ),
    )
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["sub"]
    assert "pw" not in stocked("--registry", "new", "admin", "restore", "s3://user:pw@bucket/x").err


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
