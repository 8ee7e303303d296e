"""What tests do not make again is what the program makes: the schema of new SQLite files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import reused_schema

from fusery.registry.database import Database, schema

_BESIDE = ("user_version", "application_id", "auto_vacuum", "page_size", "encoding", "journal_mode")


def _new(path: Path) -> Path:
    database = Database.open(f"sqlite:///{path}")
    schema.upgrade(database)
    assert schema.check(database) == []
    database.close()
    return path


def _content(path: Path) -> list[object]:
    """Return all that a file has, in its order."""
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
        ).fetchall()
        beside = [connection.execute(f"PRAGMA {name}").fetchone() for name in _BESIDE]
        return [*made, *beside, *connection.iterdump()]


def test_a_new_file_is_what_all_migrations_make_of_it(tmp_path: Path) -> None:
    first = _content(_new(tmp_path / "first.db"))  # the first one of a process is migrated as well
    assert _content(_new(tmp_path / "second.db")) == _content(_new(tmp_path / "third.db"))
    with reused_schema.schema_migrated():
        migrated = _content(_new(tmp_path / "migrated.db"))
    assert _unordered(first) == _unordered(migrated)
    assert _unordered(_content(_new(tmp_path / "fourth.db"))) == _unordered(migrated)


def _unordered(content: list[object]) -> list[list[str]]:
    """Leave out in which order a table's constraints and indexes are, which SQLAlchemy does not settle."""
    return sorted(sorted(line.strip(" \t,") for line in repr(one).split("\\n")) for one in content)
