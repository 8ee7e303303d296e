"""A million damaged headers on all cores: `make soak`, or `python -m fuzz.soak --count N --seed S`.

Every thousand headers have a seed of their own, so that a failure can be had again in a second.
"""
# ruff: noqa: T201 -- a command of its own

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz.header_files import Place, hold, library_accepts, make

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of a thousand headers.

    Attributes:
        seed: of its `random.Random`.
        accepted: headers that were read.
        lax: headers that were refused here and read by the library.
        slowest: seconds of processor time for one header, everything included.
        peak: bytes of memory of the process.
        failure: a traceback, or empty.
    """

    seed: int
    accepted: int
    lax: int
    slowest: float
    peak: int
    failure: str = ""


def run_batch(seed: int) -> Batch:
    """Try a batch; stops at the first header of which something does not hold."""
    random = Random(seed)
    accepted = lax = 0
    slowest = 0.0
    failure = ""
    with tempfile.TemporaryDirectory(prefix="fusery-soak-") as folder, Place(Path(folder, "t")) as place:
        for number in range(BATCH):
            file = make(random)
            started = time.process_time()
            try:
                sound = hold(file, place)
            except Exception:  # noqa: BLE001 -- whatever it is, it is what is looked for
                failure = f"header {number}: {file[:400]!r}\n{traceback.format_exc()}"
                break
            slowest = max(slowest, time.process_time() - started)
            accepted += sound
            lax += not sound and library_accepts(file)
    return Batch(seed, accepted, lax, slowest, _peak(), failure)


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def batches(count: int, seed: int, workers: int) -> Iterator[Batch]:
    """Try so many batches, in processes of their own."""
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(run_batch, range(seed, seed + count), chunksize=4)


def main() -> int:
    """Run it, print what came of it, and return 1 if something did not hold."""
    parser = argparse.ArgumentParser(description="Try damaged safetensors headers.")
    parser.add_argument("--count", type=int, default=1_000_000, help="headers, rounded up to thousands")
    parser.add_argument("--seed", type=int, default=None, help="of the first batch; default: any")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    count = -(-options.count // BATCH)
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(5), "big")
    print(
        f"seeds {seed} to {seed + count - 1}, {BATCH:,} headers each, {options.workers} processes", flush=True
    )
    started = time.monotonic()
    done: list[Batch] = []
    for batch in batches(count, seed, options.workers):
        done.append(batch)
        if batch.failure:
            print(f"seed {batch.seed}: {batch.failure}\nagain: --seed {batch.seed} --count 1")
            return 1
        if len(done) % 100 == 0:
            print(f"{len(done) * BATCH:,} headers, {time.monotonic() - started:.0f} s", flush=True)
    print(
        f"{len(done) * BATCH:,} headers in {time.monotonic() - started:.0f} s: "
        f"{sum(batch.accepted for batch in done):,} accepted, each one by the library too; "
        f"{sum(batch.lax for batch in done):,} refused that the library accepts; "
        f"slowest {max(batch.slowest for batch in done) * 1000:.0f} ms, "
        f"at most {max(batch.peak for batch in done) >> 20} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
