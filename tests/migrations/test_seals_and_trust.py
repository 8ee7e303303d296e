"""0007 to 0008: an upgrade seals what was recorded before there were seals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from database_facts import migrate_to
from sqlalchemy import text

from fusery.registry.audit.records import check_records
from fusery.registry.audit.upgrade import seal_older
from fusery.registry.database import Database, events, schema

TASKS = ("course_rec", "support", "search")


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with rows and without entries."""
    database = Database.open(empty_url)
    migrate_to(database, "0007")
    with database.write() as session:
        for number, name in enumerate(TASKS, 1):
            session.execute(
                text("INSERT INTO task (id, name) VALUES (:id, :name)"), {"id": number, "name": name}
            )
    yield database
    database.close()


def found(database: Database) -> list[str]:
    with database.read() as session:
        assert list(events.verify_chain(session)) == []
        return [f"{one.code} {one.subject}" for one in check_records(session)]


def test_an_upgrade_seals_what_there_is(older: Database) -> None:
    schema.upgrade(older, afterwards=partial(seal_older, actor="ann"))
    assert found(older) == []
    with older.read() as session:
        entry = events.last(session)
        assert entry is not None
        assert (entry.action, entry.actor, entry.detail) == ("records.sealed", "ann", '{"since":"0007"}')
    with older.write() as session:
        session.execute(text("UPDATE task SET name = 'other' WHERE id = 2"))
        session.execute(text("INSERT INTO task (id, name) VALUES (9, 'smuggled')"))
        session.execute(text("DELETE FROM task WHERE id = 3"))
    assert found(older) == [
        "record_changed task support",
        "record_unsealed task smuggled",
        "record_missing task search",
    ]


def test_a_second_upgrade_seals_nothing(older: Database) -> None:
    """Otherwise whoever put a record in would only have to upgrade."""
    schema.upgrade(older, afterwards=partial(seal_older, actor="ann"))
    with older.write() as session:
        session.execute(text("INSERT INTO task (id, name) VALUES (9, 'smuggled')"))
    schema.upgrade(older, afterwards=partial(seal_older, actor="eve"))
    assert found(older) == ["record_unsealed task smuggled"]
