"""`fusery db`, and what every other command says of a database that an older release made."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from database_facts import all_rows, migrate_to
from fixture_types import Fusery

from fusery.registry.database import Database, schema
from fusery.storage.digest import digest_json

OLDER = f"""\
Error: the database is at 0001, this version of fusery needs {schema.HEAD}
Hint: fusery db upgrade
"""


def made_by_the_first_release(path: Path) -> None:
    """Replace a database by one at revision 0001 with the same rows, as far as that one had columns for them."""
    newer = path.with_name("newer.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    path.rename(newer)
    older = Database.open(f"sqlite:///{path}")
    migrate_to(older, "0001")
    older.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ATTACH ? AS newer", (str(newer),))
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'alembic_version'"
        for (table,) in database.execute(query).fetchall():
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}")
        assert database.execute("PRAGMA main.foreign_key_check").fetchall() == []
        database.commit()
    newer.unlink()
    chain_without_seals(path)


def chain_without_seals(path: Path) -> None:
    """Write the hashes of the log as a release did that knew no seals."""
    keys = ("seq", "at", "actor", "action", "subject_kind", "subject", "detail")
    with contextlib.closing(sqlite3.connect(path)) as database:
        previous = "0" * 64
        for row in database.execute(f"SELECT {', '.join(keys)} FROM event ORDER BY seq").fetchall():
            content = {**dict(zip(keys, row, strict=True)), "previous": previous}
            content["at"] = f"{content['at'].replace(' ', 'T')}+00:00"
            hashed = digest_json(content)
            database.execute(
                "UPDATE event SET previous = ?, hash = ? WHERE seq = ?", (previous, hashed, content["seq"])
            )
            previous = hashed
        database.commit()


@pytest.fixture
def older(stocked: Fusery, tmp_path: Path) -> Fusery:
    """The command line on a registry of the first release: a base, two adapters, a fused model of the first."""
    assert stocked("fuse", "course_rec@1").code == 0
    made_by_the_first_release(tmp_path / "home" / "fusery.db")
    return stocked


def test_every_command_asks_for_the_upgrade(older: Fusery, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/home/fusery.db")
    before = all_rows(database)
    for words in ("list", "init", "fuse course_rec@1", "base add tiny", "audit", "db check"):
        ran = older(*words.split())
        assert (ran.code, ran.out, ran.err) == (2, "", OLDER), words
    assert all_rows(database) == before
    assert schema.state(database).current == "0001"
    database.close()
    assert older("list", "--json").json["error"]["hint"] == "fusery db upgrade"
    current = older("db", "current", "--json").json
    assert current == {"current": "0001", "head": schema.HEAD, "status": "older"}
    checks = {check["name"]: check for check in older("doctor", "--json").json["checks"]}
    assert (checks["database"]["status"], checks["database"]["hint"]) == ("problem", "fusery db upgrade")


@pytest.mark.slow
def test_after_the_upgrade_everything_works(stocked: Fusery, tmp_path: Path) -> None:
    fused = stocked("fuse", "course_rec@1", "--json").json
    listed, shown = (stocked(*words, "--json").json for words in (["list"], ["show", "course_rec@1"]))
    made_by_the_first_release(tmp_path / "home" / "fusery.db")

    ran = stocked("db", "upgrade")
    assert (ran.code, ran.out, ran.err) == (0, f"Upgraded from 0001 to {schema.HEAD}\n", "")
    assert stocked("db", "upgrade").out == f"Already at {schema.HEAD}\n"
    assert stocked("db", "check").code == 0

    assert stocked("list", "--json").json == listed
    shown["fused"][0]["fidelity"]["noise"] = None  # nobody measured it then
    assert stocked("show", "course_rec@1", "--json").json == shown
    again = stocked("fuse", "course_rec@1", "--json").json
    assert again["cached"]
    assert (again["key"], again["digest"]) == (fused["key"], fused["digest"])
    assert stocked("fidelity", "course_rec@1").code == 0
    audited = stocked("audit", "--json").json
    assert (audited["ok"], audited["problems"]) == (True, [])


@pytest.mark.slow
def test_hints_lead_from_an_empty_database_to_a_registry(fusery: Fusery) -> None:
    """Each hint is typed until nothing is wrong any more."""
    for upgrade_first in (False, True):
        here = ("--registry", f"home{upgrade_first}")
        if upgrade_first:
            ran = fusery(*here, "db", "upgrade")
            assert (ran.code, f"Next: fusery {' '.join(here)} init" in ran.err) == (0, True)
        typed = []
        for words in (["list"], ["audit"], ["doctor"]):
            while (ran := fusery(*here, *words)).code:
                printed = ran.out if words == ["doctor"] else ran.err
                line = next(line for line in printed.splitlines() if "Hint: fusery " in line)
                typed.append(line.partition("Hint: ")[2])
                assert fusery(*typed[-1].split()[1:]).code == 0
                assert len(typed) < 5, typed
        assert typed == [f"fusery {' '.join(here)} init"]
        again = fusery(*here, "db", "upgrade")
        assert (again.out.startswith("Already at"), again.err) == (True, "")
