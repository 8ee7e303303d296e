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
from fusery.registry.catalog.listing import SORTABLE
from fusery.registry.database import events

METRIC = "metric.courses.acc"
MANY = {"sqlite": 2_000, "postgresql": 20_000}
"""Adapters: enough for the planner to prefer an index to the table."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("crowd") / "tiny", layers=2)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def crowded(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with many adapters, each of which was amended, and most of which were measured."""
    with lasting_registry(request, request.param, tmp_path_factory.mktemp("crowded")) as registry:
        registry.bases.add(base, name="tiny", reference=True)
        large_registry.fill(registry, MANY[request.param])
        with registry.workspace.database.write() as session:
            session.execute(text(large_registry.AMENDED))
            session.execute(text(large_registry.EVALUATED))
            if request.param == "postgresql":
                session.execute(text("ANALYZE"))  # as autovacuum does by itself
        yield registry


def commands(number: int) -> dict[str, Callable[[Registry], Any]]:
    """Return the commands that are held to this, about the adapter with a number."""
    task, name = large_registry.task_of(number), large_registry.name_of(number)
    lists: dict[str, dict[str, Any]] = {
        # By a metric, everything that was measured is looked at.
        **{f"--sort {field}{way}": {"sort": field + way} for field in SORTABLE for way in ("", ":desc")},
        "--task --sort": {"task": task, "sort": "val_loss:desc"},
        "--base --sort": {"base": "tiny", "sort": "val_loss"},
        "--tag of few": {"tags": {"run": "r3"}},
        "--tag of many": {"tags": {"team": "t3"}, "sort": "date:desc"},
        "--where": {"where": "rank >= 8", "sort": "created_at:desc"},
        "--where metric": {"where": f"{METRIC} > 0.5", "sort": "created_at:desc"},
        "with metrics": {"metrics": [METRIC.removeprefix("metric.")]},
        "--sort of two": {"sort": "date,val_loss:desc"},
    }
    return {
        **{
            f"list {words}": lambda registry, asked=asked: registry.adapters.list(**asked, limit=20)
            for words, asked in lists.items()
        },
        "eval list": lambda registry: registry.evaluations.list(name),
        "eval list --limit": lambda registry: registry.evaluations.list(limit=20),
        "eval list --metric": lambda registry: registry.evaluations.list(metric="courses.acc", limit=20),
        "show name": lambda registry: registry.adapters.show(name),
        "show version": lambda registry: registry.adapters.show(f"{task}@7"),
        "show latest": lambda registry: registry.adapters.show(f"{task}@latest"),
        "show --at": lambda registry: registry.adapters.show(name, at="2030-01-01"),
        "show latest --at": lambda registry: registry.adapters.show(f"{task}@latest", at="2030-01-01"),
        "show digest": lambda registry: registry.adapters.show(large_registry.digest_of(number)[:12]),
        "history": lambda registry: registry.adapters.history(task),
        "lineage": lambda registry: registry.provenance.lineage(f"{task}@7"),
        "lineage of a base": lambda registry: registry.provenance.lineage("tiny", limit=50),
        "base show": lambda registry: registry.bases.show("tiny", limit=50, offset=100),
        "names for": lambda registry: registry.aliases.names_for(f"{task}@7"),
        "tasks": lambda registry: registry.adapters.tasks(limit=50),
        "log": lambda registry: registry.upkeep.log(before=5000, limit=50),
    }


def test_no_command_reads_a_whole_table(crowded: Registry, make_adapter: Any, base: Path) -> None:
    number = 1_000
    name, task = large_registry.name_of(number), large_registry.task_of(number)
    crowded.adapters.yank(name, reason="so that withdrawals are looked up")
    folder = make_adapter("new", seed=1, base=base)
    correction = {"val_loss": 0.125, "dataset": "another", "tags": {"team": "none"}, "reason": "typo"}
    used = {
        **commands(number),
        "register": lambda registry: registry.adapters.register(folder, base="tiny", task=task),
        "amend": lambda registry: registry.adapters.amend(name, **correction),
    }
    whole: dict[str, list[str]] = {}
    for words, command in used.items():
        with query_plans.recorded() as queries:
            command(crowded)
        assert queries
        if found := query_plans.whole_tables(crowded.workspace.database, queries):
            whole[words] = found
    assert whole == {}
    amended = crowded.adapters.list(where="val_loss = 0.125 and tag.team = none")
    assert [view["name"] for view in amended] == [name]


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
    with registry.workspace.database.read() as session:
        assert list(events.verify_chain(session)) == []
