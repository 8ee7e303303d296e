"""What commands cost when there are many adapters: no more queries, and none that reads a whole table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import large_registry
import pytest
import query_plans
import tiny_models
from kept_registries import lasting_registry
from sqlalchemy import text

from fusery.registry import Registry
from fusery.registry.catalog.paging import SORTABLE
from fusery.registry.database import events

METRIC = "metric.courses.acc"
FIELDS = [*SORTABLE, METRIC]
"""What a list is sorted by."""

MANY = 20_000
"""Adapters: enough for every planner to prefer an index to the table."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("crowd") / "tiny", layers=2)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowded(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with many adapters, each of which was amended, and most of which were measured.

    There is one for all tests on each database: a few more adapters or corrections are nothing to it.
    """
    folder = tmp_path_factory.mktemp("crowded")
    with lasting_registry(request, request.param, folder) as registry:
        registry.bases.add(base, name="tiny", reference=True)
        large_registry.fill(registry, MANY)
        with registry.workspace.database.write() as session:
            session.execute(text(large_registry.AMENDED))
            session.execute(text(large_registry.EVALUATED))
            if registry.workspace.database.dialect == "postgresql":
                session.execute(text("ANALYZE"))  # as autovacuum does by itself
        yield registry


def commands(number: int) -> dict[str, Callable[[Registry], Any]]:
    """Return the commands that are held to this, about the adapter with a number."""
    task, name = large_registry.task_of(number), large_registry.name_of(number)
    sorts = {
        f"list --sort {field}{way}": lambda registry, by=field + way: registry.adapters.list(
            sort=by, limit=20
        )
        for field in SORTABLE  # by a metric, everything that was measured is looked at
        for way in ("", ":desc")
    }
    return sorts | {
        "list --task --sort": lambda registry: registry.adapters.list(
            task=task, sort="val_loss:desc", limit=20
        ),
        "list --base --sort": lambda registry: registry.adapters.list(base="tiny", sort="val_loss", limit=20),
        "list --tag of few": lambda registry: registry.adapters.list(tags={"run": "r3"}, limit=20),
        "list --tag of many": lambda registry: registry.adapters.list(
            tags={"team": "t3"}, sort="date:desc", limit=20
        ),
        "list --where": lambda registry: registry.adapters.list(
            where="rank >= 8", sort="created_at:desc", limit=20
        ),
        "list --where metric": lambda registry: registry.adapters.list(
            where=f"{METRIC} > 0.5", sort="created_at:desc", limit=20
        ),
        "list with metrics": lambda registry: registry.adapters.list(
            metrics=[METRIC.removeprefix("metric.")], limit=20
        ),
        "eval list": lambda registry: registry.evaluations.list(name),
        "eval list --limit": lambda registry: registry.evaluations.list(limit=20),
        "eval list --metric": lambda registry: registry.evaluations.list(
            metric=METRIC.removeprefix("metric."), limit=20
        ),
        "list --sort of two": lambda registry: registry.adapters.list(sort="date,val_loss:desc", limit=20),
        "show name": lambda registry: registry.adapters.show(name),
        "show version": lambda registry: registry.adapters.show(f"{task}@7"),
        "show latest": lambda registry: registry.adapters.show(f"{task}@latest"),
        "show --at": lambda registry: registry.adapters.show(name, at="2030-01-01"),
        "show latest --at": lambda registry: registry.adapters.show(f"{task}@latest", at="2030-01-01"),
        "show digest": lambda registry: registry.adapters.show(large_registry.digest_of(number)[:12]),
        "history": lambda registry: registry.adapters.history(task),
        "lineage": lambda registry: registry.provenance.lineage(f"{task}@7"),
        "lineage of a base": lambda registry: registry.provenance.lineage("tiny", limit=50, count=False),
        "base show": lambda registry: registry.bases.show("tiny", limit=50, offset=100),
        "names for": lambda registry: registry.aliases.names_for(f"{task}@7"),
    }


@pytest.mark.slow
def test_no_command_reads_a_whole_table(crowded: Registry, make_adapter: Any, base: Path) -> None:
    crowded.adapters.yank(large_registry.name_of(MANY // 2), reason="so that who is told of it is looked up")
    said: dict[str, list[str]] = {}
    for name, command in commands(MANY // 2).items():
        with query_plans.recorded() as queries:
            command(crowded)
        assert queries
        if found := query_plans.whole_tables(crowded.workspace.database, queries):
            said[name] = found
    folder = make_adapter("new", seed=1, base=base)
    with query_plans.recorded() as queries:
        crowded.adapters.register(folder, base="tiny", task=large_registry.task_of(MANY // 2))
    if found := query_plans.whole_tables(crowded.workspace.database, queries):
        said["register"] = found
    correction = {"val_loss": 0.125, "dataset": "another", "tags": {"team": "none"}, "reason": "typo"}
    with query_plans.recorded() as queries:
        crowded.adapters.amend(large_registry.name_of(MANY // 2), **correction)
    if found := query_plans.whole_tables(crowded.workspace.database, queries):
        said["amend"] = found
    assert [view["name"] for view in crowded.adapters.list(where="val_loss = 0.125 and tag.team = none")] == [
        large_registry.name_of(MANY // 2)
    ]
    assert said == {}


def test_a_whole_table_is_noticed(crowded: Registry) -> None:
    """The check above can fail: by a filter without an index, and by sorting what no index sorts."""
    statements = (
        "SELECT count(*) FROM adapter WHERE total_parameters = 7",
        "SELECT id FROM adapter ORDER BY total_parameters, note LIMIT 20",
    )
    for statement in statements:
        with query_plans.recorded() as queries, crowded.workspace.database.read() as session:
            session.connection().exec_driver_sql(statement)
        assert query_plans.whole_tables(crowded.workspace.database, queries), statement


def counted(registry: Registry) -> dict[str, int]:
    """Return how many queries each command takes."""
    found = {}
    for name, command in commands(7).items():
        with query_plans.recorded() as queries:
            command(registry)
        found[name] = len(queries)
    return found


def test_more_adapters_take_no_more_queries(registry: Registry, base: Path) -> None:
    registry.bases.add(base, name="tiny", reference=True)
    large_registry.fill(registry, large_registry.VERSIONS)
    registry.adapters.yank(large_registry.name_of(7), reason="so that who is told of it is looked up")
    few = counted(registry)
    large_registry.fill(registry, 2 * large_registry.VERSIONS, start=large_registry.VERSIONS)
    assert counted(registry) == few
    assert len(registry.adapters.list()) == 3 * large_registry.VERSIONS


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("way", ["", ":desc"])
def test_pages_are_the_whole_list_in_pieces(field: str, way: str, stocked_crowd: Registry) -> None:
    """Along an index and by sorting everything: the same order, with those without a value at the end."""
    whole = [view["name"] for view in stocked_crowd.adapters.list(sort=field + way)]
    pages = [
        view["name"]
        for offset in range(0, len(whole), 37)
        for view in stocked_crowd.adapters.list(sort=field + way, limit=37, offset=offset)
    ]
    assert pages == whole
    name = METRIC.removeprefix("metric.")
    values = [
        view["metrics"][name] if field == METRIC else view[field]
        for view in stocked_crowd.adapters.list(sort=field + way, metrics=[name])
    ]
    assert len(set(values)) > 1 or field in ("alpha", "layers", "scale")
    known = [value for value in values if value is not None]
    assert values == sorted(known, reverse=way == ":desc") + [None] * (len(values) - len(known))


@pytest.fixture(scope="module")
def stocked_crowd(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[Registry]:
    """A registry with two hundred adapters, of which some have no loss, and some were not measured."""
    with Registry.open(tmp_path_factory.mktemp("crowd") / "home") as registry:
        registry.init()
        registry.bases.add(base, name="tiny", reference=True)
        large_registry.fill(registry, 2 * large_registry.VERSIONS)
        with registry.workspace.database.write() as session:
            session.execute(text(large_registry.EVALUATED))
        yield registry


def test_the_crowd_is_valid(stocked_crowd: Registry) -> None:
    with stocked_crowd.workspace.database.read() as session:
        assert list(events.verify_chain(session)) == []
    assert [view["version"] for view in stocked_crowd.adapters.history(large_registry.task_of(0))] == list(
        range(1, 101)
    )
