"""A dask cluster within this process: items, failures, and clusters that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import LocalCluster

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.workspace import executor as module


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with LocalCluster(**options, dashboard_address=None) as running:
        yield running.scheduler_address


def half(number: int) -> int:
    if number == 4:
        raise BadInputError("not four", hint="another")
    if number == 99:
        raise ZeroDivisionError
    return number // 2


def test_every_item_has_an_outcome(address: str) -> None:
    outcomes = {outcome.item: outcome for outcome in module.Cluster(address).run(half, range(9))}
    assert [outcomes[number].result for number in range(9)] == [0, 0, 1, 1, None, 2, 3, 3, 4]
    assert [number for number, outcome in outcomes.items() if outcome.failure is not None] == [4]
    with pytest.raises(ZeroDivisionError):
        list(module.Cluster(address).run(half, [99]))


def test_a_cluster_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("127.0.0.1:8786", "http://127.0.0.1:8786"):
        with pytest.raises(BadInputError):
            module.Cluster(wrong)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with pytest.raises(module.ClusterError):
        list(module.Cluster("tcp://127.0.0.1:9").run(half, [1]))
    for jobs, wanted in ((3, 3), (1, 1), (module.MOST_JOBS, module.MOST_JOBS)):
        assert module.check_jobs(jobs) == wanted
    assert 1 <= module.check_jobs(None) <= 4
    for wrong_jobs in (0, module.MOST_JOBS + 1):
        with pytest.raises(BadInputError):
            module.check_jobs(wrong_jobs)


def test_work_is_for_one_registry(sqlite_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = sqlite_registry.workspace
    monkeypatch.delenv("FUSERY_CLUSTER", raising=False)
    kinds = [(jobs, type(module.workers_of(workspace, jobs)[0])) for jobs in (1, 2)]
    assert kinds == [(1, module.Serial), (2, module.ProcessPool)]
    _, site = module.workers_of(workspace, 1)
    assert site == module.Site(workspace.identity, workspace.settings)
    with site.opened() as opened:
        assert (opened.identity, opened.settings) == (workspace.identity, workspace.settings)
        database = opened.database
    with pytest.raises(BadInputError), module.Site("other", workspace.settings).opened():
        pass
    assert "database" not in vars(opened) and database is not opened.database
    opened.close()
    monkeypatch.setenv("FUSERY_CLUSTER", "tcp://127.0.0.1:9")
    cluster, site = module.workers_of(workspace, 1)
    assert isinstance(cluster, module.Cluster) and site == module.Site(workspace.identity)
