"""How long `impact` takes on a base that a hundred thousand adapters stand on: `python benchmarks/impact.py`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

DESCENDANTS = 100_000
BOUND = 2.0
"""Seconds, at most."""


def main() -> int:
    """Fill an embedded registry, ask a few times, print the median; return 1 if the bound is missed."""
    import large_registry
    import tiny_models

    from fusery.registry import Registry

    with (
        tempfile.TemporaryDirectory(prefix="fusery-impact-") as folder,
        Registry.open(Path(folder, "home")) as registry,
    ):
        registry.init()
        registry.bases.add(tiny_models.make_base(Path(folder, "base"), layers=2), name="tiny")
        large_registry.fill(registry, DESCENDANTS)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            found = registry.provenance.impact("base:tiny")
            times.append(time.perf_counter() - began)
    median = statistics.median(times)
    print(f"{len(found.adapters):,} adapters reached, {median:.2f} s, at most {BOUND:g} s wanted")
    return int(median > BOUND or len(found.adapters) != DESCENDANTS)


if __name__ == "__main__":
    sys.exit(main())
