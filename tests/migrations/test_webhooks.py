"""To 0017 and back: two tables more, and no other row changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from database_facts import all_rows, snapshot
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fusery.registry import Registry
from fusery.registry.database import schema
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace

BEFORE = "0016"


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """A registry on each kind of database."""
    settings = Settings(home=tmp_path / "home", database_url=database_url, user="tester")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        yield registry


def test_up_and_down_keep_every_row(made: Registry) -> None:
    database = made.workspace.database
    made.webhooks.add("https://hooks.example.org", "alias.moved", name="ci")
    schema.downgrade(database, BEFORE)
    before, tables_before = all_rows(database), snapshot(database)
    schema.upgrade(database)
    after = all_rows(database)
    assert {name: after[name] for name in before} == before
    assert {after[name] == [] for name in after.keys() - before.keys()} == {True}
    assert {"webhook", "webhook_delivery"} <= after.keys() - before.keys()
    schema.downgrade(database, BEFORE)
    assert (all_rows(database), snapshot(database)) == (before, tables_before)


def test_what_is_added_after_is_whole(made: Registry) -> None:
    database = made.workspace.database
    schema.downgrade(database, BEFORE)
    schema.upgrade(database)
    made.webhooks.add("https://hooks.example.org", "alias.moved", name="ci")
    assert made.upkeep.audit().ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE webhook_delivery SET position = -1",
        "UPDATE webhook_delivery SET attempts = -1",
        "UPDATE webhook SET url = NULL",
        "DELETE FROM webhook",
        "INSERT INTO webhook_delivery (webhook_id, position, attempts) VALUES (9, 0, 0)",
    ],
)
def test_the_constraints_hold(made: Registry, statement: str) -> None:
    made.webhooks.add("https://hooks.example.org", "alias.moved", name="ci")
    with pytest.raises(IntegrityError), made.workspace.database.write() as session:
        session.execute(text(statement))
