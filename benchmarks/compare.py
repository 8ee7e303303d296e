"""The same commands of two revisions of fusery, in turn in one run: what has become slower since.

    make bench-compare REV=v0.1.0
    python benchmarks/compare.py REVISION [CASE ...] [--runs 9] [--page docs/measurements.md]

The other revision is checked out beside this one, with an environment of its own that `make .venv/.dev` makes there.  Each has a
home of its own, filled by its own commands from the same files; then each case is run by one and by the other, now this one first and now that
one, with the caches of the machine in the same state for both.  Told are the medians and, pair by pair, the median of the ratios
of times and of processors' time; the latter say more where other programs run.  A case fails above `LIMIT`.

What was measured goes to results/compare.json, a row for each case with its date and the two commits, in the place of an earlier
row of the case; `--page` puts them as a table between the marks of a page.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "compare.json"
MARKS = "<!-- made by benchmarks/compare.py --page -->", "<!-- end -->"
LIMIT = 1.15
"""A ratio of processors' time above which a case counts as slower: less is what the same code differs by."""
ADAPTERS = 60
VERSIONS = 30
HEAD = "command", "before", "after", "ratio of times", "of processors' time", "measured"

Words = list[str]
Row = dict[str, Any]


@dataclass(frozen=True)
class Revision:
    """One of the two.

    Attributes:
        commit: short.
        root: where its files are.
        home: its registry.
    """

    commit: str
    root: Path
    home: Path

    def run(self, words: Sequence[str]) -> tuple[float, float]:
        """Run a command of it; return its seconds, and those of processors."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [self.root / ".venv" / "bin" / "fusery", *words],
            capture_output=True,
            env={**os.environ, "FUSERY_REGISTRY": str(self.home)},
            cwd=self.home.parent,
            check=False,
        )
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{self.commit}: {' '.join(words)}: {done.stderr.decode()[-500:]}")
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass(frozen=True)
class Inputs:
    """What both register: a base, its adapters, and one of some size.

    Attributes:
        base: tiny.
        adapters: on it.
        large: a base of a quarter of a gigabyte.
        versions: adapters on it.
    """

    base: Path
    adapters: list[Path]
    large: Path
    versions: list[Path]


def made_inputs(folder: Path) -> Inputs:
    """Make them; the same for both."""
    sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())
    import tiny_models

    base = tiny_models.make_base(folder / "tiny")
    large = tiny_models.make_base(folder / "large", layers=8, hidden=1024, intermediate=2816, vocab=32000)

    def adapters(name: str, on: Path, count: int, layers: int) -> list[Path]:
        return [
            tiny_models.make_adapter(folder / f"{name}{number}", on, seed=number, num_layers=layers)
            for number in range(count)
        ]

    return Inputs(base, adapters("small", base, 2 * ADAPTERS, 1), large, adapters("wide", large, VERSIONS, 4))


def fill(revision: Revision, inputs: Inputs) -> None:
    """Register the bases and some of the adapters, by the revision's own commands."""
    revision.run(["admin", "init"])
    revision.run(["base", "add", str(inputs.base), "--name", "tiny"])
    revision.run(["base", "add", str(inputs.large), "--name", "large"])
    for number, folder in enumerate(inputs.adapters[:ADAPTERS]):
        revision.run(["register", str(folder), "--base", "tiny", "--task", f"task{number % 6}"])
    for folder in inputs.versions:
        revision.run(["register", str(folder), "--base", "large", "--task", "wide"])


def cases(inputs: Inputs) -> dict[str, Callable[[int], Words]]:
    """Return what is measured: for each turn the words of a command, always something that was not done before."""
    return {
        "--help": lambda turn: ["--help"],
        "list": lambda turn: ["list"],
        "show": lambda turn: ["show", "wide@1"],
        "history": lambda turn: ["log", "task0"],
        "lineage": lambda turn: ["lineage", "tiny"],
        "diff": lambda turn: ["diff", "wide@1", f"wide@{2 + turn}"],
        "register": lambda turn: [
            *("register", str(inputs.adapters[ADAPTERS + turn])),
            *("--base", "tiny", "--task", "new"),
        ],
        "fuse, keep": lambda turn: ["fuse", f"wide@{1 + turn}", "--as", "keep"],
        "fuse, from the cache": lambda turn: ["fuse", "wide@1", "--as", "keep"],
        "identify": lambda turn: ["identify", str(inputs.large)],
        "audit": lambda turn: ["audit"],
    }


@contextlib.contextmanager
def both(revision: str, folder: Path) -> Iterator[tuple[Revision, Revision]]:
    """Check the other revision out and yield it and this one."""

    def commit(name: str) -> str:
        words = ["git", "-C", str(ROOT), "rev-parse", "--short=9", f"{name}^{{commit}}"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    known, checkout = commit(revision), folder / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), known], check=True)
    try:
        subprocess.run(["make", "--silent", "-C", str(checkout), ".venv/.dev"], check=True)
        yield Revision(known, checkout, folder / "before"), Revision(commit("HEAD"), ROOT, folder / "after")
    finally:
        subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def measured(name: str, words: Callable[[int], Words], pair: tuple[Revision, Revision], runs: int) -> Row:
    """Run a case by both in turn; return its row."""
    found: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for turn in range(runs + 1):
        order = (0, 1) if turn % 2 else (1, 0)
        times = {which: pair[which].run(words(turn)) for which in order}
        if turn:  # the first one warms up
            found.append((times[0], times[1]))
    before, after = (statistics.median(each[which][0] for each in found) for which in (0, 1))
    wall, busy = (statistics.median(b[of] / a[of] for a, b in found) for of in (0, 1))
    return {
        "case": name,
        "before": round(before, 3),
        "after": round(after, 3),
        "ratio": round(wall, 3),
        "processors": round(busy, 3),
        "runs": runs,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commits": [revision.commit for revision in pair],
    }


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines: list[tuple[str, ...]] = [HEAD, ("---", *["---:"] * 4, "---")]
    lines += [
        (
            f"`fusery {row['case']}`",
            f"{row['before']:.2f} s",
            f"{row['after']:.2f} s",
            f"{row['ratio']:.2f}",
            f"{row['processors']:.2f}",
            f"{row['date']}, {row['commits'][0]} to {row['commits'][1]}, {row['runs']} pairs",
        )
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def noted(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return all rows, the new ones in the place of those of the same case."""
    latest = {row["case"]: row for row in (*rows, *new)}
    return list(latest.values())


def put(page: Path, rows: Sequence[Row]) -> None:
    """Put the table into a page, between its marks."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise SystemExit(f"the page has no place for the table, which is {' … '.join(MARKS)}")
    page.write_text(f"{before}{mark}\n\n{table(rows)}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Measure, note and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="the other one, as git names it")
    parser.add_argument("cases", nargs="*", help="default: all")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="put the table into this page, between its marks")
    options = parser.parse_args()
    if options.runs >= VERSIONS - 2:
        raise SystemExit(f"at most {VERSIONS - 3} runs")
    with tempfile.TemporaryDirectory(prefix="fusery-compare-") as scratch:
        folder = Path(scratch)
        inputs = made_inputs(folder)
        with both(options.revision, folder) as pair:
            for revision in pair:
                fill(revision, inputs)
            rows = [
                measured(name, words, pair, options.runs)
                for name, words in cases(inputs).items()
                if name in (options.cases or [name])
            ]
    print(table(rows))
    known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else []
    every = noted(known, rows)
    lines = ",\n".join(json.dumps(row) for row in every)
    options.results.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    if options.page:
        put(options.page, every)
    slower = [row["case"] for row in rows if row["processors"] > LIMIT]
    if slower:
        raise SystemExit(f"slower than {pair[0].commit} by more than {LIMIT}: {', '.join(slower)}")


if __name__ == "__main__":
    main()
