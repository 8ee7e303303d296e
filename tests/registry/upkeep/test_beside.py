"""Collectors beside processes that write: nothing that is kept is lost, and in the end exactly that is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collect_workers import collect_until_killed, fill_and_forget
from database_workers import start
from programs import CONTEXT
from s3_server import BUCKET, find_server, running_server
from store_shelf import open_workspace

from fusery.registry.upkeep.collect import collect
from fusery.registry.workspace.workspace import Workspace

WEED = find_server()
Place = dict[str, Any]
KILLS = 60 if os.environ.get("FUSERY_SOAK") else 6
pytestmark = pytest.mark.timing


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a registry is: keywords of `open_workspace`."""
    kind = getattr(request, "param", "sqlite")
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    made: Place = {"home": tmp_path / "home", "database_url": url}
    if kind != "postgresql+s3":
        yield made
        return
    if WEED is None:
        pytest.skip("SeaweedFS is not installed")
    (tmp_path / "s3").mkdir()
    with running_server(WEED, tmp_path / "s3") as server:
        yield {**made, "store_url": f"s3://{BUCKET}/here", "store_options": server.options()}


def opened(place: Place) -> Workspace:
    workspace = open_workspace(**place)
    workspace.ensure(explicit=True)
    return workspace


def require_exactly_the_live_bytes(workspace: Workspace) -> None:
    collect(workspace, grace=0.0)
    done = collect(workspace, grace=0.0)
    live = done.live, done.live_bytes
    stored = list(workspace.store.blobs())
    assert (len(stored), sum(blob.size for blob in stored)) == live
    assert list(workspace.store.leftovers()) == []


BACKENDS = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "postgresql+s3")),
]


def tell(workers: list[Any]) -> None:
    for _, connection in workers:
        connection.send("stop")


def results_of(workers: list[Any]) -> list[dict[str, Any]]:
    results = [connection.recv() for _, connection in workers]
    for process, _ in workers:
        process.join()
    return results


@pytest.mark.parametrize("place", BACKENDS, indirect=True)
def test_killed_collectors_beside_processes_that_keep_and_forget(place: Place) -> None:
    workspace = opened(place)
    workers = [start(fill_and_forget, place, number, context=CONTEXT) for number in range(3)]
    for kill in range(KILLS):
        collector, words = start(collect_until_killed, place, context=CONTEXT)
        words.recv()
        collector.join(0.1 + 0.1 * (kill % 3))
        collector.kill()
        collector.join()
    tell(workers)
    results = results_of(workers)
    assert [lost for result in results for lost in result["lost"]] == []
    assert all(result["checked"] > 0 for result in results)
    require_exactly_the_live_bytes(workspace)
    assert list(workspace.store.blobs()) == []
    workspace.close()
