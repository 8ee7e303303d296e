"""A cluster of real dask processes whose items take longer than it may be without workers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import bulk_workers
import pytest
from dask_cluster import cluster

from fusery.registry.workspace import executor as module

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 120)


def test_a_worker_that_works_for_long_is_not_one_that_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALONE", 1)
    monkeypatch.setattr(module, "LOOK", 0.05)
    with cluster(tmp_path) as running:
        running.add_worker()
        outcomes = list(module.Cluster(running.address).run(time.sleep, [3, 0]))
    assert sorted((outcome.item, outcome.failure) for outcome in outcomes) == [(0, None), (3, None)]


@pytest.mark.parametrize("another", [False, True])
def test_what_was_done_by_a_worker_that_dies_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    monkeypatch.setattr(
        module, "ALONE", 120 if another else 2
    )  # a busy machine starts a worker in its own time
    monkeypatch.setattr(module, "FETCH", 1)
    done = module.Cluster._wait
    support = Path(bulk_workers.__file__).parents[1]
    with cluster(tmp_path, PYTHONPATH=os.pathsep.join(map(str, support.iterdir()))) as running:
        running.add_worker()

        def late(self: module.Cluster, client: Any, futures: Any) -> Any:
            found = done(self, client, futures)
            if not started:
                running.workers[0].wait(60)
                # A late worker lets a cluster that waits for ever end, and so fail this test.
                waker = threading.Timer(0 if another else 30, running.add_worker)
                started.append(waker)
                waker.start()
            return found

        started: list[threading.Timer] = []
        monkeypatch.setattr(module.Cluster, "_wait", late)
        item = str(tmp_path / "item")
        work = module.Cluster(running.address).run(bulk_workers.leave_once, [item])
        if another:
            assert [(outcome.result, outcome.failure) for outcome in work] == [(item, None)]
        else:
            with pytest.raises(module.ClusterError):
                list(work)
        for waker in started:
            waker.cancel()
            waker.join()
