"""Many small adapters between two registries: what each costs does not grow, and a batch is there in full or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kept_registries import KeptStates
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tiny_models import make_adapter, make_base

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange import receiving

pytestmark = pytest.mark.timing
MANY = 12


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count statements, and transactions by what they are for, until the block ends."""
    told: Counter[str] = Counter()

    def begun(connection: Any) -> None:
        told[str(connection.get_execution_options().get("purpose"))] += 1

    def stated(*_: Any) -> None:
        told["statements"] += 1

    event.listen(Engine, "begin", begun)
    event.listen(Engine, "before_cursor_execute", stated)
    try:
        yield told
    finally:
        event.remove(Engine, "begin", begun)
        event.remove(Engine, "before_cursor_execute", stated)


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    """One folder for all tests, emptied for each: what they begin with is made once, and copied there."""
    return kept.empty_place()


def fill(registry: Registry, folder: Path) -> None:
    """Add a base and a task of small adapters."""
    base = make_base(folder / "small")
    registry.bases.add(base, name="small")
    for seed in range(MANY):
        adapter = make_adapter(folder / f"made{seed}", base, seed=seed)
        registry.adapters.register(adapter, base="small", task="many")


@pytest.fixture
def many(kept: KeptStates, database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """A registry with a task of small adapters; it comes before the other one."""
    with kept.opened("many", database_url, lambda made: fill(made, tmp_path)) as (registry, _):
        yield registry


def names(registry: Registry) -> list[str]:
    return sorted(view["name"] for view in registry.adapters.list())


def test_all_of_a_batch_are_recorded_in_one_transaction(
    many: Registry, other: Registry, other_home: Path
) -> None:
    many.exchange.push("small", other_home)
    with counted() as told:
        done = many.exchange.push("many", other_home)
    assert [item.state for item in done.items_ if item.kind == "adapter"] == ["copied"] * MANY
    # What is stored is announced, it is recorded, and the claims are given up.
    assert told["write"] <= 4
    assert told["statements"] / MANY < 40
    assert names(other) == names(many)
    with counted() as audit:
        assert other.upkeep.audit().ok
    assert audit["read"] < 2 * MANY + 20


def test_one_that_does_not_get_in_keeps_those_after_it_out_and_no_other(
    many: Registry, other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = versions(many)[7]["name"]
    honest = receiving.examine_recorded

    def look(workspace: Any, document: Any, *paths: Any, **rest: Any) -> Any:
        if document.name == refused:
            raise BadInputError("no")
        return honest(workspace, document, *paths, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(receiving, "examine_recorded", look)
        with pytest.raises(BadInputError):
            many.exchange.push("many", other_home)
    assert [each["name"] for each in versions(other)] == [each["name"] for each in versions(many)[:7]]
    assert other.upkeep.audit().ok
    many.exchange.push("many", other_home)
    assert names(other) == names(many)
    assert other.upkeep.audit().ok


def versions(registry: Registry) -> list[Any]:
    return sorted(registry.adapters.list(), key=lambda view: view["version"])
