"""`fusery db`, and what every other command says of a database that an older release made."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import printed_documents
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


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "init",
        "show course_rec@1",
        "fuse course_rec@1",
        "base list",
        "base add tiny",
        "audit",
        "db check",
    ],
)
def test_every_command_asks_for_the_upgrade(older: Fusery, tmp_path: Path, words: str) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/home/fusery.db")
    before = all_rows(database)
    ran = older(*words.split())
    assert (ran.code, ran.out, ran.err) == (2, "", OLDER)
    assert all_rows(database) == before
    assert schema.state(database).current == "0001"
    database.close()


def test_as_json(older: Fusery) -> None:
    ran = older("list", "--json")
    assert (ran.code, ran.err) == (2, "")
    assert ran.json["error"]["hint"] == "fusery db upgrade"
    assert older("db", "current", "--json").json == {
        "current": "0001",
        "head": schema.HEAD,
        "status": "older",
    }
    database = next(
        check for check in older("doctor", "--json").json["checks"] if check["name"] == "database"
    )
    assert (database["status"], database["hint"]) == ("problem", "fusery db upgrade")


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

    other = stocked("fuse", "course_rec@1", "--with", "course_rec@2:0.5", "--json")
    assert other.code == 0
    assert not other.json["cached"]
    assert stocked("show", "course_rec@1").code == 0


def test_hints_lead_from_an_empty_database_to_a_registry(
    fusery: Fusery, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of an empty PostgreSQL database is followed to the letter until nothing is wrong any more."""
    monkeypatch.setenv("FUSERY_DATABASE_URL", empty_url)
    typed = []
    for words in (["list"], ["audit"], ["doctor"]):
        while (ran := fusery(*words)).code:
            said = ran.out if words == ["doctor"] else ran.err
            hint = next(line for line in said.splitlines() if "Hint: fusery " in line).partition("Hint: ")[2]
            typed.append(hint)
            assert fusery(*hint.split()[1:]).code == 0
            assert len(typed) < 5, typed
    assert typed == ["fusery init"]


def test_a_schema_without_a_registry_is_one_that_init_makes(
    fusery: Fusery, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_DATABASE_URL", empty_url)
    ran = fusery("db", "upgrade")
    assert (ran.code, "Next: fusery init" in ran.err) == (0, True)
    for words in (["audit"], ["doctor"]):
        ran = fusery(*words)
        assert "there is no registry in" in ran.out + ran.err
        assert "Hint: fusery init" in ran.out + ran.err
    assert fusery("init").code == 0
    assert fusery("audit").code == 0
    again = fusery("db", "upgrade")
    assert (again.out.startswith("Already at"), again.err) == (True, "")


@pytest.mark.parametrize(
    ("words", "roles"),
    [
        ([], ["fusery_reader", "fusery_publisher", "fusery_server", "fusery_admin"]),
        (["--role", "reader", "--user", "ann"], ["fusery_reader"]),
    ],
)
def test_grants_are_printed_as_sql_as_names_and_as_a_document(
    fusery: Fusery, postgres_url: str, monkeypatch: pytest.MonkeyPatch, words: list[str], roles: list[str]
) -> None:
    monkeypatch.setenv("FUSERY_DATABASE_URL", postgres_url)
    found = fusery("db", "grants", *words, "--json").json
    printed_documents.require("db grants", found)
    assert (found["roles"], found["user"]) == (roles, "ann" if words else None)
    assert fusery("db", "grants", *words).out == found["sql"]
    assert fusery("db", "grants", *words, "-q").out.split() == roles
    assert all(f"TO {role}" in found["sql"] for role in roles)
