"""A team at work: many processes on two simulated hosts, which share a database and a store and nothing else.

Beside them another one collects all the time, without grace: what is live must not depend on it.

A host has a home and a cache of its own, and another name, kernel and process namespace in what its processes say about
themselves: none can tell whether a process of the other one is alive.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import database_workers
import tiny_models
from sqlalchemy.orm import Session

from fusery.registry import Registry, tables
from fusery.registry.database import events, leases
from fusery.registry.errors import FuseryError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.fuse_inputs import InputFiles
from fusery.registry.records.deposit import Deposit
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace

TASKS = ("course_rec", "search", "support")
ALIASES = ("prod", "canary")
KEEP = FuseRequest(precision="keep", accept_loss=True)
HOSTS = ("one", "two")


@dataclass(frozen=True, slots=True)
class Place:
    folder: Path
    database_url: str
    store_url: str
    store_options: dict[str, Any]

    def open(self, host: str) -> Registry:
        settings = replace(
            Settings.load(self.folder / host),
            database_url=self.database_url,
            store_url=self.store_url,
            store_options=self.store_options,
            publish="full",
            cache_limit=300_000,  # models are evicted all the time
            user=f"worker-{host}",
        )
        return Registry(Workspace(settings))


def prepare(place: Place) -> None:
    base = tiny_models.make_base(place.folder / "tiny", layers=2)
    for host in HOSTS:
        (place.folder / host).mkdir()
    with place.open(HOSTS[0]) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        shared = tiny_models.make_adapter(place.folder / "shared", base, seed=1)
        registry.adapters.register(shared, base="tiny", task="shared")
        for number, task in enumerate(TASKS):
            folder = tiny_models.make_adapter(place.folder / f"first{number}", base, seed=10 + number)
            registry.adapters.register(folder, base="tiny", task=task)


def live_on(host: str) -> None:
    leases.socket.gethostname = lambda: f"host-{host}"  # type: ignore[attr-defined]
    leases._place = lambda: (f"boot-{host}", "1")


def work(url: str, place: Place, operations: int, barrier: Barrier, test: Connection) -> None:
    """Do so many things, the same fuse first as everybody; send what was done, refused and computed."""
    number = barrier.wait()  # the same numbers in each run
    host = HOSTS[number % 2]
    live_on(host)
    worker = _Worker(place, host, number)
    try:
        worker.run(operations)
    except Exception:  # noqa: BLE001  the test shows it
        test.send(traceback.format_exc())
        return
    test.send(
        {"done": worker.done, "refused": worker.refused, "computed": worker.computed, "made": worker.made}
    )


class _Worker:
    def __init__(self, place: Place, host: str, number: int) -> None:
        self.registry = place.open(host)
        self.place, self.number, self.random = place, number, random.Random(number)
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()
        self.made: list[tuple[str, int, bool]] = []
        compute, computed = InputFiles.compute, self.computed

        def counted(inputs: InputFiles, recipe: Any, key: Any, *rest: Any, **options: Any) -> Any:
            computed[str(key)] += 1
            return compute(inputs, recipe, key, *rest, **options)

        InputFiles.compute = counted  # type: ignore[method-assign]

    def run(self, operations: int) -> None:
        kinds = ("register", "again", "alias", "list", "fuse", "materialize", "yank", "give_up")
        chosen = self.random.choices(kinds, (4, 1, 4, 4, 2, 1, 1, 1), k=operations - 2)
        # Each gives up once at the least, or a short run might leave the collector nothing.
        names = ["fuse", "give_up", *chosen]
        with self.registry:
            for turn, name in enumerate(names):
                try:
                    getattr(self, name)(turn)
                except FuseryError as error:
                    self.refused[f"{name}: {error.code}: {error.message[:200]}"] += 1
                self.done[name] += 1

    def register(self, turn: int) -> None:
        folder, base = self.place.folder / f"adapter-{self.number}-{turn}", self.place.folder / "tiny"
        tiny_models.make_adapter(folder, base, seed=self.number * 1000 + turn, num_layers=1, rank=2)
        self._register(folder, self.random.choice(TASKS))

    def again(self, turn: int) -> None:
        self._register(self.place.folder / f"first{turn % len(TASKS)}", TASKS[(turn + 1) % len(TASKS)])

    def _register(self, folder: Path, task: str) -> None:
        made = self.registry.adapters.register(folder, base="tiny", task=task)
        self.made.append((task, made["version"], made.created))

    def alias(self, turn: int) -> None:
        task = self.random.choice(TASKS)
        self.registry.aliases.set(self.random.choice(ALIASES), f"{task}@latest", reason=f"turn {turn}")

    def list(self, turn: int) -> None:
        task = self.random.choice(TASKS)
        versions = sorted(view["version"] for view in self.registry.adapters.list(task=task))
        assert versions == [*range(1, len(versions) + 1)], versions

    def fuse(self, turn: int) -> None:
        self.registry.fused.fuse("shared@1", KEEP)

    def materialize(self, turn: int) -> None:
        bundle = self.place.folder / f"bundle-{self.number}-{turn}"
        self.registry.bundles.materialize("shared@1", bundle, request=KEEP)

    def yank(self, turn: int) -> None:
        reference = f"{self.random.choice(TASKS)}@1"
        self.registry.adapters.yank(reference, reason="test")
        self.registry.adapters.unyank(reference)

    def give_up(self, turn: int) -> None:
        """Store what is not recorded in the end, as a command that is refused: food for the collector."""
        workspace = self.registry.workspace
        deposit = Deposit(workspace.database, workspace.store, leases.LeaseOwner.current())
        deposit.put({"own": self.random.randbytes(1000), "everybody's": b"the same of everybody"})
        deposit.abandon()


def collect(place: Place, test: Connection) -> None:
    """Collect without grace until told to stop, and once more; send how often that was, and how many blobs went."""
    live_on(HOSTS[1])
    turns, removed = 0, 0
    try:
        with place.open(HOSTS[1]) as registry:
            stop = False
            while not stop:
                stop = test.poll(0.05)  # seconds
                done = registry.upkeep.gc(grace=0.0)
                turns, removed = turns + 1, removed + sum(item.kind == "blob" for item in done.items_)
    except Exception:  # noqa: BLE001  the test shows it
        test.send(traceback.format_exc())
        return
    test.send({"turns": turns, "removed": removed})


def at_work(place: Place, processes: int, operations: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    each = operations // processes
    collector, line = database_workers.start(collect, place)
    try:
        results = database_workers.run_all(work, processes, place.database_url, place, each)
        line.send("stop")
        collected = line.recv()
    finally:
        collector.kill()
        collector.join()
    failed = [result for result in (*results, collected) if isinstance(result, str)]
    assert not failed, failed[0]
    return results, collected


def inconsistencies(place: Place, results: list[dict[str, Any]]) -> list[str]:
    with place.open(HOSTS[0]) as registry:
        problems = _versions(registry, results) + _log(registry, results)
        found = registry.upkeep.audit().problems, registry.upkeep.audit_chain().problems
        problems += [f"audit: {problem}" for part in found for problem in part]
        with registry.workspace.database.read() as session:
            problems += _moves(session)
            held = session.query(tables.LeaseRow).filter(tables.LeaseRow.owner != "").all()
            problems += [f"the lease {lease.key} is still held by {lease.owner}" for lease in held]
            intents = session.query(tables.IntentRow).all()
            problems += [f"an intent is left: {intent.owner}" for intent in intents]
        for _ in range(2):
            collected = registry.upkeep.gc(grace=0.0)
        stored = list(registry.workspace.store.blobs())
        if (len(stored), sum(blob.size for blob in stored)) != (collected.live, collected.live_bytes):
            problems.append("a collection leaves more than what is live")
    return problems


def _versions(registry: Registry, results: list[dict[str, Any]]) -> list[str]:
    problems = []
    made = [each for result in results for each in result["made"]]
    for task in TASKS:
        listed = sorted(view["version"] for view in registry.adapters.list(task=task))
        handed = sorted(version for of, version, created in made if of == task and created)
        if listed != list(range(1, len(listed) + 1)) or handed != listed[1:]:  # the first was there before
            problems.append(f"{task}: versions {listed}, of which {handed} were handed out")
    return problems


def _moves(session: Session) -> list[str]:
    problems = []
    for alias in session.query(tables.AliasRow).all():
        holder = None
        for move in session.query(tables.AliasMoveRow).filter_by(alias_id=alias.id).order_by("id"):
            if move.from_adapter_id != holder:
                problems.append(f"move {move.id} of {alias.name} does not follow from the one before")
            holder = move.to_adapter_id
        if holder != alias.adapter_id:
            problems.append(f"{alias.name} holds another adapter than its last move says")
    if len(events.history(session, action="alias.moved")) != session.query(tables.AliasMoveRow).count():
        problems.append("not every move of an alias is one event")
    return problems


def _log(registry: Registry, results: list[dict[str, Any]]) -> list[str]:
    with registry.workspace.database.read() as session:
        registered = len(events.history(session, action="adapter.registered"))
        fused = len(events.history(session, action="fused.made"))
    computed = sum((result["computed"] for result in results), Counter())
    there = len(registry.adapters.list())
    if (registered, fused, list(computed.values())) == (there, 1, [1]):
        return []
    return [f"{registered} of {there} registrations are logged, {fused} fuses, computed {dict(computed)}"]
