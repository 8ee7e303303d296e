"""Registering a 6 MB adapter against a base that is there, in turn with what it cannot be faster than.

The peer is `import sqlalchemy.orm`, the largest part of it that is not fusery's own: `fusery register` is bounded by two and a
half times that, as whole commands.  Shown besides are the start of the interpreter and the SHA-256 of the file in it.
`--crowd` registers so many adapters before, for the look for near-duplicates.

Run it with `python benchmarks/register.py --runs 5 --crowd 24`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BOUND = 2.5
"""Times of `import sqlalchemy.orm`, at most."""

# Of SmolLM2-135M: 30 layers of 576, of which 18 are adapted at rank 8 on every linear layer.
SHAPE = {"layers": 30, "hidden": 576, "intermediate": 1536, "vocab": 49152}
ADAPTER = {"num_layers": 18, "rank": 8}


def run(command: list[str], home: Path) -> tuple[float, float]:
    """Run a command; return the seconds that it takes, and those of processors in it."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "FUSERY_REGISTRY": str(home)}, check=False
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.decode()[-500:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(folder: Path, home: Path, runs: int, crowd: int) -> list[Path]:
    """Add a base and a crowd of adapters; return the folders of more, one for each run."""
    sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())
    import tiny_models

    from fusery.registry import Registry

    with Registry.open(home) as registry:
        base = tiny_models.make_base(folder / "base", **SHAPE)  # type: ignore[arg-type]
        registry.bases.add(base, name="base", reference=True)
        adapters = [
            tiny_models.make_adapter(folder / f"adapter{seed}", base, seed=seed, **ADAPTER)  # type: ignore[arg-type]
            for seed in range(runs + 1 + crowd)
        ]
        for adapter in adapters[runs + 1 :]:
            registry.adapters.register(adapter, base="base", task="crowd")
    return adapters[: runs + 1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--crowd", type=int, default=24, help="adapters that are registered before")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fusery-bench-") as scratch:
        folder, home = Path(scratch), Path(scratch, "home")
        adapters = prepare(folder, home, options.runs, options.crowd)
        size = (adapters[0] / "adapters.safetensors").stat().st_size
        hashing = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
        rows = []
        for number, adapter in enumerate(adapters):
            row = (
                run([sys.executable, "-c", "pass"], home),
                run([sys.executable, "-c", hashing, str(adapter / "adapters.safetensors")], home),
                run([str(BIN / "fusery"), "check", str(adapter), "--base", "base"], home),
                run([sys.executable, "-c", "import sqlalchemy.orm"], home),
                run([str(BIN / "fusery"), "register", str(adapter), "--base", "base", "--task", "t"], home),
            )
            rows += [row] if number else []  # the first one warms the disk
        wall = [statistics.median(row[place][0] for row in rows) for place in range(5)]
        cores = [statistics.median(row[place][1] for row in rows) for place in range(5)]
        ratio, busy_ratio = (statistics.median(row[4][of] / row[3][of] for row in rows) for of in (0, 1))
    print(f"adapter of {size / 1e6:.1f} MB, {options.crowd} registered before, median of {len(rows)} runs")
    labels = (
        "python -c pass",
        "SHA-256 of the file",
        "fusery check",
        "import sqlalchemy.orm",
        "fusery register",
    )
    for label, seconds, busy in zip(labels, wall, cores, strict=True):
        print(f"  {label:<22} {seconds * 1000:7.0f} ms, {busy * 1000:7.0f} ms of processors")
    verdict = "holds" if ratio <= BOUND else "MISSED"
    print(
        f"  register / import sqlalchemy.orm: {ratio:.2f} (at most {BOUND}: {verdict}), {busy_ratio:.2f} of processors' time"
    )
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1):
        print(f"  this machine is busy (load {load:.1f}): the processors' time is what counts")
    if options.json:
        measured = dict(zip(("start", "sha256", "check", "orm", "register"), wall, strict=True))
        options.json.write_text(json.dumps({"bytes": size, **measured, "ratio": ratio}), encoding="utf-8")


if __name__ == "__main__":
    main()
