"""Start-up against peers, in pairs in the same run: `fusery --help` and `import click`, `fusery list` and what it cannot do without.

That is `import sqlalchemy.orm`; a client opens a registry at a URL in less than the time of `import httpx2`, which it loads for its
first request; `mlflow --version` is what a peer takes to print its version, where it is installed.  All are whole commands.  Judged is the median of the ratios of times; on a busy machine those of processors' time say more.

Run it with `make bench`, or `python benchmarks/startup.py --runs 15 --mlflow /path/to/mlflow`.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ADAPTERS = 100


def seconds(command: list[str], home: Path) -> tuple[float, float]:
    """Return the seconds that a command takes, and those of processors in it."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "FUSERY_REGISTRY": str(home)}, check=False
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.decode()[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(label: str, ours: list[str], theirs: list[str], *, bound: float, runs: int, home: Path) -> None:
    """Run two commands in turn and print medians and the median of the ratios, pair by pair."""
    seconds(ours, home), seconds(theirs, home)
    pairs = [(seconds(ours, home), seconds(theirs, home)) for _ in range(runs)]
    ratio, busy = (statistics.median(a[of] / b[of] for a, b in pairs) for of in (0, 1))
    a, b = (statistics.median(wall for wall, _ in column) for column in zip(*pairs, strict=True))
    verdict = "holds" if ratio <= bound else "MISSED"
    print(
        f"{label:<48} {a * 1000:7.0f} ms {b * 1000:7.0f} ms   ratio {ratio:.2f} (at most {bound}: {verdict})"
        f", {busy:.2f} of processors' time"
    )


def registry_with_adapters(home: Path) -> None:
    """Register a tiny base and 100 adapters."""
    sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())
    import tiny_models

    from fusery.registry import Registry

    with tempfile.TemporaryDirectory() as scratch, Registry.open(home) as registry:
        base = tiny_models.make_base(Path(scratch) / "base")
        registry.bases.add(base, name="tiny")
        for number in range(ADAPTERS):
            folder = tiny_models.make_adapter(
                Path(scratch) / f"adapter{number}", base, seed=number, num_layers=1
            )
            registry.adapters.register(
                folder, base="tiny", task=f"task{number % 10}", val_loss=1 / (number + 1)
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--mlflow", default="mlflow", help="the command to compare with")
    options = parser.parse_args()
    runs = options.runs
    fusery = str(BIN / "fusery")
    with tempfile.TemporaryDirectory(prefix="fusery-bench-") as folder:
        home = Path(folder)
        registry_with_adapters(home)
        print(f"{'':<48} {'ours':>10} {'theirs':>10}")
        click = [sys.executable, "-c", "import click"]
        compare("fusery --help / import click", [fusery, "--help"], click, bound=2.0, runs=runs, home=home)
        orm = [sys.executable, "-c", "import sqlalchemy.orm"]
        label = f"fusery list ({ADAPTERS} adapters) / import sqlalchemy.orm"
        compare(label, [fusery, "list"], orm, bound=1.4, runs=runs, home=home)
        client = "from fusery import Registry; Registry.open('https://registry.example', token='t')"
        label = "Registry.open(URL) in Python / import httpx2"
        httpx = [sys.executable, "-c", "import httpx2"]
        compare(label, [sys.executable, "-c", client], httpx, bound=0.6, runs=runs, home=home)
        mlflow = shutil.which(options.mlflow)
        if mlflow is None:
            print("mlflow is not installed: run make bench, or give --mlflow")
            return
        compare(
            f"fusery list ({ADAPTERS} adapters) / mlflow --version",
            [fusery, "list"],
            [mlflow, "--version"],
            bound=0.5,
            runs=min(runs, 5),
            home=home,
        )


if __name__ == "__main__":
    main()
