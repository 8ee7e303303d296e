"""Many small adapters between two registries: what each costs does not grow, and a batch is there in full or not at all."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ready_processes
from dying_pulls import pull_and_die
from kept_registries import KeptStates
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tiny_models import make_adapter, make_base

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange import batching, receiving, taking
from fusery.storage.errors import BlobCorruptError

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


@pytest.fixture
def pushed(
    kept: KeptStates, database_url: str, tmp_path: Path, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """The same, all of which the other one has too."""
    for name in ("FUSERY_HOME", "FUSERY_DATABASE_URL", "FUSERY_STORE_URL"):
        monkeypatch.delenv(name, raising=False)

    def push(registry: Registry) -> None:
        fill(registry, tmp_path)
        with Registry.open(other_home) as there:
            there.init()
        registry.exchange.push("many", other_home)

    with kept.opened("pushed", database_url, push) as (registry, _):
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
    assert other.upkeep.audit().ok


def test_what_an_adapter_costs_does_not_grow_with_their_number(
    many: Registry, other: Registry, other_home: Path, tmp_path: Path
) -> None:
    many.exchange.push("small", other_home)
    with counted() as few:
        many.exchange.push("many@2", other_home)
    with counted() as all_:
        many.exchange.push("many", other_home)
    assert all_["statements"] < few["statements"] + 14 * MANY
    with counted() as audit:
        assert other.upkeep.audit().ok
    assert audit["read"] < MANY + 20


@pytest.mark.parametrize("pulls", [False, True])
def test_one_that_does_not_get_in_keeps_those_after_it_out_and_no_other(
    request: pytest.FixtureRequest,
    database_url: str,  # of the one of `many` and `pushed` that is asked for
    other_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pulls: bool,
) -> None:
    many: Registry = request.getfixturevalue("pushed" if pulls else "many")
    other: Registry = request.getfixturevalue("other")
    refused = versions(many)[7]["name"]
    honest = taking.look_at_adapter

    def look(workspace: Any, item: Any, paths: Any, **rest: Any) -> Any:
        if item.name == refused:
            raise BadInputError("no")
        return honest(workspace, item, paths, **rest)

    with Registry.open(tmp_path / "third") as third:
        third.init()
        receiver = third if pulls else other

        def go() -> None:
            if pulls:
                third.exchange.pull("many", other_home)
            else:
                many.exchange.push("many", other_home)

        with monkeypatch.context() as patched:
            patched.setattr(taking, "look_at_adapter", look)
            with pytest.raises(BadInputError):
                go()
        assert [each["name"] for each in versions(receiver)] == [each["name"] for each in versions(many)[:7]]
        assert receiver.upkeep.audit().ok
        go()
        assert names(receiver) == names(many)
        assert receiver.upkeep.audit().ok


def versions(registry: Registry) -> list[Any]:
    return sorted(registry.adapters.list(), key=lambda view: view["version"])


def test_one_that_cannot_be_recorded_does_not_keep_those_before_it_out(
    many: Registry, other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many.exchange.push("small", other_home)
    bad, honest = versions(many)[5]["name"], receiving.events.record

    def record(*args: Any, **words: Any) -> Any:
        if words["subject"] == bad:
            raise BadInputError("no")
        return honest(*args, **words)

    monkeypatch.setattr(receiving.events, "record", record)
    with pytest.raises(BadInputError):
        many.exchange.push("many", other_home)
    assert names(other) == sorted(each["name"] for each in versions(many)[:5])
    monkeypatch.undo()
    assert other.upkeep.audit().ok


def test_a_damaged_file_of_one_is_named_and_those_before_it_arrive(
    many: Registry, other: Registry, other_home: Path
) -> None:
    many.exchange.push("small", other_home)
    files = many.adapters.show(versions(many)[3]["name"])["files"]
    digest = next(file["sha256"] for file in files if file["path"] == "adapters.safetensors")
    [blob] = (many.workspace.settings.home / "store").rglob(digest)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(BlobCorruptError):
        many.exchange.push("many", other_home)
    assert names(other) == sorted(each["name"] for each in versions(many)[:3])
    assert other.upkeep.audit().ok
    assert list((many.workspace.cache.root / "tmp").iterdir()) == []


def test_those_of_one_batch_are_neighbours_of_one_another(
    registry: Registry, other: Registry, other_home: Path, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "small")
    registry.bases.add(base, name="small")
    for turn, scale in enumerate((20.0, 19.0, 18.0)):  # one update in three sizes
        folder = make_adapter(tmp_path / f"made{turn}", base, seed=1, scale=scale, update=0.05 + turn / 1000)
        registry.adapters.register(folder, base="small", task="alike")
    registry.exchange.push("alike", other_home)

    def codes(place: Registry) -> list[list[str]]:
        return [
            [found["code"] for found in place.adapters.show(each["name"])["findings"]]
            for each in versions(place)
        ]

    assert codes(other) == codes(registry)
    assert any("near_duplicate" in found for found in codes(other))


def test_batches_keep_the_order_and_what_is_needed_comes_before(
    stocked: Registry, other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST", 2)
    done = stocked.exchange.push("course_rec", other_home)
    assert [item.kind for item in done.items_] == ["base", "adapter", "adapter"]
    assert other.upkeep.audit().ok


@pytest.mark.parametrize(
    ("module", "name", "turn"),
    [("taking", "look_at_adapter", 6), ("receiving", "record_arrival", 6), ("taking", "receive_many", 1)],
)
def test_killed_in_the_middle_of_a_batch_nothing_is_half_there_and_the_next_finishes(
    pushed: Registry, other: Registry, other_home: Path, tmp_path: Path, module: str, name: str, turn: int
) -> None:
    with Registry.open(tmp_path / "third") as third:
        third.init()
        third.exchange.pull("small", other_home)
        process = ready_processes.CONTEXT.Process(
            target=pull_and_die,
            args=(str(tmp_path / "third"), str(other_home), module, name, turn, dict(os.environ)),
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert names(third) == []
        assert third.upkeep.audit().ok
        done = third.exchange.pull("many", other_home)
        assert [item.state for item in done.items_ if item.kind == "adapter"] == ["copied"] * MANY
        assert third.upkeep.audit().ok
