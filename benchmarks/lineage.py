"""What `lineage` of a base with a hundred thousand adapters take: `python benchmarks/lineage.py`.

Each is a process of its own, on SQLite.  Its seconds of processor time, its seconds in all and its memory are printed, and
the processor time and the memory are held against bounds: seconds in all are those of everybody else on the machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

ADAPTERS = 100_000
FEW, ALL = 1.0, 10.0
"""Seconds of a command that shows the nearest and counts the others, and of one that shows all."""

MEMORY = 150
"""MiB of the former."""

COMMANDS = {
    ("lineage", "tiny"): FEW,
    ("lineage", "tiny", "--json"): FEW,
    ("lineage", "tiny", "--complete"): ALL,
    ("lineage", "tiny", "--complete", "--json"): ALL,
    ("lineage", "tiny", "--complete", "-q"): ALL,
    ("lineage", "tiny", "--complete", "--format", "dot"): ALL,
}


@dataclass(frozen=True, slots=True)
class Took:
    """What a command took: seconds of the processor and in all, and MiB at most."""

    cpu: float
    wall: float
    memory: float


def main() -> int:
    """Fill an embedded registry, run the commands, print a line for each; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--rounds", type=int, default=3, help="the quickest of so many counts")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.adapters)
        return 0
    missed = 0
    with tempfile.TemporaryDirectory(prefix="fusery-lineage-") as name:
        home, out = Path(name, "home"), Path(name, "out")
        # In a process of its own: Linux counts what a process had before it became a command as the command's memory.
        own = [sys.executable, __file__, "--fill", name, "--adapters", str(options.adapters)]
        subprocess.run(own, check=True)
        print(f"{options.adapters:,} adapters: seconds of the processor, in all, MiB, MB printed")
        for words, bound in COMMANDS.items():
            took = min((_took(home, words, out) for _ in range(options.rounds)), key=lambda each: each.cpu)
            few = "--complete" not in words
            fine = took.cpu <= bound and (not few or took.memory <= MEMORY)
            fine = fine and _has_all(words, out, options.adapters)
            missed += not fine
            print(
                f"  {' '.join(words):<38}{took.cpu:7.2f}{took.wall:7.2f}{took.memory:7.0f}"
                f"{out.stat().st_size / 1e6:8.2f}  at most {bound:g} s"
                f"{f' and {MEMORY} MiB' if few else ''}{'' if fine else ': missed'}",
                flush=True,
            )
    return int(missed > 0)


def fill(folder: Path, adapters: int) -> None:
    """Make a registry in a folder with so many adapters of one base."""
    import large_registry
    import tiny_models

    from fusery.registry import Registry

    with Registry.open(folder / "home") as registry:
        registry.init()
        registry.bases.add(tiny_models.make_base(folder / "base", layers=2), name="tiny")
        large_registry.fill(registry, adapters)


def _took(home: Path, words: tuple[str, ...], out: Path) -> Took:
    command = [Path(sys.executable).with_name("fusery"), "--registry", home, *words]
    began = time.perf_counter()
    with out.open("wb") as place:
        child = subprocess.Popen(command, stdout=place)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, words
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Took(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / scale)


def _has_all(words: tuple[str, ...], out: Path, adapters: int) -> bool:
    """Tell whether what was printed accounts for every adapter."""
    if "--json" not in words:
        return "--complete" in words or f"{adapters - 100:,} more" in out.read_text()
    if words[0] == "lineage" and "--complete" in words:
        with out.open("rb") as lines:  # not as a whole: what this process has counts as the next command's
            return sum(b'"id": "adapter:' in line for line in lines) == adapters
    found = json.loads(out.read_bytes())
    return bool(len(found["nodes"]) - 1 + found["left_out"].get("adapter", 0) == adapters)


if __name__ == "__main__":
    sys.exit(main())
