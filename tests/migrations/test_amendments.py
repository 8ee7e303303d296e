"""0008 to 0009 and back: every row and the log stay, records are what their seals say, and amendments work afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from database_facts import all_rows, migrate_to, snapshot

from fusery.registry import Registry
from fusery.registry.database import schema
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


@pytest.fixture
def registered(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """A registry with an adapter, on each kind of database."""
    settings = Settings(
        home=tmp_path / "home",
        database_url=database_url,
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
    )
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    folder = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        registry.adapters.register(
            folder, base="tiny", task="t", date="20260115", val_loss=2.96, tags={"a": "b"}
        )
        yield registry


def test_up_and_down_keep_every_row(registered: Registry) -> None:
    database = registered.workspace.database
    schema.downgrade(database, "0008")
    before, tables_before = all_rows(database), snapshot(database)
    migrate_to(database, "0009")
    after = all_rows(database)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in after.keys() - before.keys()} == {"amendment": []}
    schema.downgrade(database, "0008")
    assert (all_rows(database), snapshot(database)) == (before, tables_before)


def test_what_was_registered_before_is_amended_after(registered: Registry) -> None:
    database = registered.workspace.database
    schema.downgrade(database, "0008")
    schema.upgrade(database)
    assert registered.upkeep.audit().ok
    registered.adapters.amend("t@1", val_loss=0.296, clear=["tag.a"], reason="typo")
    assert registered.upkeep.audit().ok


def test_what_was_amended_stays_so_in_an_older_schema(registered: Registry) -> None:
    """Only what it was before is in the log alone."""
    registered.adapters.amend("t@1", val_loss=0.296, reason="typo")
    log = registered.upkeep.log()
    schema.downgrade(registered.workspace.database, "0008")
    [row] = all_rows(registered.workspace.database)["adapter"]
    assert row["val_loss"] == 0.296
    schema.upgrade(registered.workspace.database)
    assert registered.upkeep.log() == log
    assert log[-1]["detail"]["changes"] == [{"field": "val_loss", "from": 2.96, "to": 0.296}]
