"""What tests do not make again is what the program makes: the schema of new SQLite files, and compiled statements."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import reused_schema
from sqlalchemy import Engine, event, select
from sqlalchemy.engine.interfaces import CacheStats

from fusery.registry import tables
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
    """Leave out in which order a table's constraints are, which Alembic does not settle."""
    return [sorted(line.strip(" \t,") for line in repr(one).split("\\n")) for one in content]


def _compiled_for(url: str) -> int:
    """Open a database, ask it, and return how many statements had to be compiled."""
    compiled = 0

    def look(
        connection: object, cursor: object, statement: str, parameters: object, context: Any, many: bool
    ) -> None:
        nonlocal compiled
        compiled += getattr(context, "cache_hit", None) is CacheStats.CACHE_MISS

    event.listen(Engine, "before_cursor_execute", look)
    database = Database.open(url)
    try:
        with database.read() as session:
            session.scalars(select(tables.Event).where(tables.Event.seq == 5).limit(3).offset(7)).all()
    finally:
        event.remove(Engine, "before_cursor_execute", look)
        database.close()
    return compiled


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_statements_are_compiled_once_for_databases_that_are_alike(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    assert [_compiled_for(url) for _ in range(2)] == [1, 0]
