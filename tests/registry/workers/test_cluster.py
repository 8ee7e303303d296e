"""A cluster of real dask processes whose items take longer than it may be without workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dask_cluster import cluster

from fusery.registry.workers import cluster as module


@pytest.mark.slow
def test_a_worker_that_works_for_long_is_not_one_that_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALONE", 1)
    monkeypatch.setattr(module, "LOOK", 0.05)
    with cluster(tmp_path) as running:
        running.add_worker()
        outcomes = list(module.Cluster(running.address).run(time.sleep, [3, 0]))
    assert sorted((outcome.item, outcome.failure) for outcome in outcomes) == [(0, None), (3, None)]
