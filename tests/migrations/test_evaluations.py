"""0013 to 0014, 0014 to 0015 and back: every row and the log stay, and what is registered before can be measured after."""

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
        registry.adapters.register(folder, base="tiny", task="t", date="20260115")
        yield registry


def test_up_and_down_keep_every_row(registered: Registry) -> None:
    database = registered.workspace.database
    schema.downgrade(database, "0013")
    before, tables_before = all_rows(database), snapshot(database)
    migrate_to(database, "0014")
    after = all_rows(database)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in after.keys() - before.keys()} == {"evaluation": []}
    schema.downgrade(database, "0013")
    assert (all_rows(database), snapshot(database)) == (before, tables_before)


def test_a_withdrawn_value_never_counts_again(registered: Registry) -> None:
    database = registered.workspace.database
    registered.evaluations.record("t@1", {"acc": 0.5, "f1": 0.25})
    schema.downgrade(database, "0014")
    before = all_rows(database)["evaluation"]
    schema.upgrade(database)
    assert registered.upkeep.audit().ok  # no seal has changed
    registered.evaluations.withdraw("t@1", "acc", reason="of another adapter")
    log = registered.upkeep.log()
    schema.downgrade(database, "0014")
    assert all_rows(database)["evaluation"] == [row for row in before if row["metric"] == "f1"]
    schema.upgrade(database)
    assert [each.metric for each in registered.evaluations.list()] == ["f1"]
    assert registered.upkeep.log() == log
    assert log[-1]["detail"]["metrics"] == [{"metric": "acc", "value": 0.5}]


def test_what_was_registered_before_is_measured_after(registered: Registry) -> None:
    database = registered.workspace.database
    schema.downgrade(database, "0013")
    schema.upgrade(database)
    registered.evaluations.record("t@1", {"acc": 0.5})
    assert registered.upkeep.audit().ok
    log = registered.upkeep.log()
    schema.downgrade(database, "0013")
    schema.upgrade(database)
    assert registered.upkeep.log() == log  # what was measured stays in the log's entries
    assert log[-1]["detail"]["metrics"] == [{"metric": "acc", "value": 0.5}]
