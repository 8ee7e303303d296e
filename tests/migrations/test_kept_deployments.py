"""To 0018 and back: a deployment of before is somebody's word, and its seal stays good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from database_facts import snapshot

from fusery.registry import Registry
from fusery.registry.database import schema
from fusery.registry.settings.settings import Settings
from fusery.registry.sync.destinations import DestinationOptions
from fusery.registry.sync.sync import SyncRequest
from fusery.registry.workspace import Workspace

BEFORE = "0017"


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """A registry with an adapter, on each kind of database."""
    settings = Settings(home=tmp_path / "home", database_url=database_url, user="tester")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        base = tiny_models.make_base(tmp_path / "base", layers=1)
        tiny_models.make_adapter(tmp_path / "first", base, num_layers=1)
        registry.bases.add(base, name="tiny")
        registry.adapters.register(tmp_path / "first", base="tiny", task="course_rec")
        yield registry


def test_up_and_down(made: Registry, tmp_path: Path) -> None:
    database = made.workspace.database
    whole = snapshot(database)
    made.deployments.record("course_rec@1", "eu/ranker")
    schema.downgrade(database, BEFORE)
    schema.upgrade(database)
    assert snapshot(database) == whole
    [row] = made.deployments.list()
    assert (row.place, row.via) == ("eu/ranker", None)
    assert made.upkeep.audit().ok and made.upkeep.audit_chain().ok
    request = SyncRequest(DestinationOptions(str(tmp_path / "loras")), ["course_rec@1"])
    assert made.deployments.sync(request).ok
    assert sorted(str(each.via) for each in made.deployments.list()) == ["None", "sync"]
    # What a sync has brought is somebody's word after a way back, and no later sync takes it away.
    schema.downgrade(database, BEFORE)
    schema.upgrade(database)
    assert [each.via for each in made.deployments.list()] == [None, None]
    nothing = SyncRequest(DestinationOptions(str(tmp_path / "loras")), nothing=True)
    assert [step.act for step in made.deployments.sync(nothing).steps] == ["leave"]
