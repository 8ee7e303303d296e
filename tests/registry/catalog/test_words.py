"""Names for a shell, from the embedded database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.catalog.words import names_beginning


def test_names_of_every_kind(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    settings = stocked.workspace.settings
    monkeypatch.setenv("FUSERY_DATABASE_URL", settings.database_url)

    def names(prefix: str, kind: str) -> list[str]:
        return names_beginning(prefix, [kind], home=settings.home)  # type: ignore[list-item]

    if not settings.database.startswith("sqlite"):
        assert names("", "task") == []
        return
    assert names("course", "adapter") == ["course_rec_v2_20260201", "course_rec_v1_20260115"]
    assert names("", "task") == ["course_rec"]
    assert names("course_rec@", "latest") == ["course_rec@latest"]
    assert names("", "alias") == ["course_rec#prod"]
    assert names("p", "alias_name") == ["prod"]
    assert names("TI", "base") == ["tiny"]
    assert names("'; DROP TABLE task; --", "task") == names("_", "task") == []
    assert stocked.upkeep.audit().ok


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_DATABASE_URL", raising=False)


def database(folder: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(folder / "fusery.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return folder


def test_a_database_that_never_answers_has_no_names(tmp_path: Path, embedded: None) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id, 'b' || x AS name FROM n"
    home = database(tmp_path, f"CREATE VIEW adapter AS {endless}")
    assert names_beginning("a", ["adapter"], home=home) == []


def test_words_that_a_shell_takes_for_more_are_none(tmp_path: Path, embedded: None) -> None:
    names = "('fine'), ('a' || char(27) || ']0;x' || char(7)), ('two' || char(10) || 'plain,evil'), ('three words')"
    home = database(tmp_path, "CREATE TABLE base_name (name)", f"INSERT INTO base_name VALUES {names}")
    assert names_beginning("", ["base"], home=home) == ["fine"]


def test_a_journal_without_its_index_stays_alone(tmp_path: Path, embedded: None) -> None:
    home = database(tmp_path, "CREATE TABLE base_name (name)", "INSERT INTO base_name VALUES ('fine')")
    (home / "fusery.db-wal").write_bytes(b"x" * 100)
    before = sorted(home.iterdir())
    assert names_beginning("", ["base"], home=home) == ["fine"]
    assert sorted(home.iterdir()) == before
