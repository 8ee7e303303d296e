"""Time `list`, `show` and `register` on a server's registry against the same commands on the registry's own folder.

Each command is a new process, as a user runs it; the two are run in turn.  `python benchmarks/remote.py [--rounds 7]`
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support" / "models"))

import tiny_models

from fusery.registry import Registry

FUSERY = [sys.executable, "-P", "-c", "from fusery.cli.start import start; start()"]


def seconds(environment: Mapping[str, str], *words: str) -> float:
    """Run a command, and return how long it takes."""
    begun = time.perf_counter()
    subprocess.run([*FUSERY, *words], env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.rounds)


def measure(folder: Path, rounds: int) -> None:
    """Make a registry of twenty adapters, serve it, and time each command on both."""
    base = tiny_models.make_base(folder / "tiny", layers=2)
    made = [tiny_models.make_adapter(folder / f"a{seed}", base, seed=seed) for seed in range(20 + 2 * rounds)]
    with Registry.open(folder / "home") as registry:
        registry.bases.add(base, name="tiny")
        for adapter in made[:20]:
            registry.adapters.register(adapter, base="tiny", task="course_rec", val_loss=1.0)
        token = registry.tokens.create("bench", "publisher").secret
    local = {**os.environ, "FUSERY_REGISTRY": str(folder / "home")}
    server = subprocess.Popen(
        [*FUSERY, "server", "--port", "0", "-q"], env=local, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        cache = str(folder / "cache")
        remote = {**local, "FUSERY_REGISTRY": url, "FUSERY_TOKEN": token, "XDG_CACHE_HOME": cache}
        new = iter(made[20:])
        for name, words in (("list", []), ("show", ["course_rec@3"]), ("register", None)):
            taken: dict[str, list[float]] = {"local": [], "remote": []}
            for _ in range(rounds):
                for where, environment in (("local", local), ("remote", remote)):
                    asked = words
                    if asked is None:
                        asked = [str(next(new)), "--base", "tiny", "--task", "course_rec"]
                    taken[where].append(seconds(environment, name, *asked))
            here, there = (statistics.median(taken[where]) for where in ("local", "remote"))
            print(f"{name:9}  local {here:.3f} s  remote {there:.3f} s  ratio {there / here:.2f}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


if __name__ == "__main__":
    main()
