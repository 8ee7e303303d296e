"""Finding similar adapters among 20,000: `python benchmarks/similar.py`.

The search is compared, in turns, with its peer: SQLite's own module reading the same sketches, and nothing else.  The
bounds are 0.1 s for the search, and four times the peer's time.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

SECONDS, TIMES = 0.1, 4.0


def main() -> int:
    """Fill a registry, search in it, print seconds and ratio; return 1 if a bound is missed."""
    import large_registry
    import tiny_models
    from sqlalchemy import delete, insert, select

    from fusery.registry import Registry, tables
    from fusery.registry.comparison.sketches import SIZE, nearest

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9, help="the quickest of so many counts")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fusery-similar-") as name,
        Registry.open(Path(name, "home")) as registry,
    ):
        registry.init()
        registry.bases.add(tiny_models.make_base(Path(name, "base"), layers=2), name="tiny")
        large_registry.fill(registry, options.adapters)
        random, database = np.random.default_rng(0), registry.workspace.database
        with database.write() as session:
            numbers = session.scalars(select(tables.AdapterRow.id)).all()
            sketches = [random.integers(-127, 128, SIZE, np.int8).tobytes().hex() for _ in numbers]
            rows = [{"adapter_id": at, "numbers": text} for at, text in zip(numbers, sketches, strict=True)]
            session.execute(delete(tables.AdapterSketchRow))
            session.execute(insert(tables.AdapterSketchRow), rows)

        def search() -> None:
            with database.read() as session:
                found = nearest(session, sketches[len(sketches) // 2], 11)
            assert next(iter(found)) == numbers[len(sketches) // 2]

        def read() -> None:
            with sqlite3.connect(Path(name, "home", "fusery.db")) as peer:
                assert len(peer.execute("SELECT adapter_id, numbers FROM adapter_sketch").fetchall()) == len(
                    numbers
                )

        seconds = {search: 1e9, read: 1e9}
        for _ in range(options.rounds):
            for one in (search, read):
                seconds[one] = min(seconds[one], _took(one))
    ratio = seconds[search] / seconds[read]
    print(f"{len(numbers):,} adapters: {seconds[search]:.3f} s (at most {SECONDS}), {ratio:.2f} times reading the sketches "
          f"(at most {TIMES})")  # fmt: skip
    return int(seconds[search] > SECONDS or ratio > TIMES)


def _took(one: Callable[[], None]) -> float:
    began = time.perf_counter()
    one()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
