"""0006 to 0007 and back: the log keeps its entries, and from then on refuses to let go of any."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import all_rows, log_guards_gone, migrate_to, snapshot
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from fusery.registry.database import Database, schema

INSERT = """INTO event (seq, at, actor, action, subject_kind, subject, detail, previous, hash)
    VALUES (1, '2026-01-15 00:00:00.000000', 'ann', 'a', 'k', 's', '{}', 'p', 'h')"""


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with an entry."""
    database = Database.open(empty_url)
    migrate_to(database, "0006")
    execute(database, f"INSERT {INSERT}")
    yield database
    database.close()


def execute(database: Database, statement: str) -> None:
    with database.write() as session:
        session.execute(text(statement))


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    with older.read() as session:
        assert log_guards_gone(session) != []
    migrate_to(older, "0007")
    assert all_rows(older) == before
    with older.read() as session:
        assert log_guards_gone(session) == []
    schema.downgrade(older, "0006")
    assert (all_rows(older), snapshot(older)) == (before, tables_before)
    execute(older, "UPDATE event SET actor = 'eve'")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET actor = 'eve' WHERE seq = 1",
        "UPDATE event SET seq = 2",
        "DELETE FROM event",
        f"INSERT OR REPLACE {INSERT}",
        f"REPLACE {INSERT.replace('(1,', '(2,')}",
        "TRUNCATE event",
    ],
    ids=["update", "renumber", "delete", "replace by number", "replace by hash", "truncate"],
)
def test_an_entry_is_neither_changed_nor_removed(older: Database, statement: str) -> None:
    migrate_to(older, "0007")
    before = all_rows(older)["event"]
    with pytest.raises(DBAPIError):
        execute(older, statement)
    assert all_rows(older)["event"] == before
