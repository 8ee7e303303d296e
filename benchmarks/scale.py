"""What commands take in a registry with a thousand adapters, and in one with a million, in turn.

Both are filled with valid rows (`tests/support/scenarios/large_registry.py`), on SQLite and on a PostgreSQL server that is started for it.  Each
command runs in turn in the small and in the large one; the medians are compared, and the ratio is to be 2 at most.

Run it with `python benchmarks/scale.py`; `--large 20000` for a quick look.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())
BOUND = 2.0


@contextlib.contextmanager
def servers(names: list[str]) -> Iterator[dict[str, Callable[[], str]]]:
    """Yield for each kind of database what makes a new one and returns its URL."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Callable[[], str]] = {"sqlite": lambda: ""}
        if "postgresql" in names:
            from postgres_server import PostgresDatabases, postgres_server

            made["postgresql"] = PostgresDatabases(stack.enter_context(postgres_server())).create
        yield {name: made[name] for name in names}


def fill(home: Path, url: str, base: Path, count: int) -> Any:
    """Make a registry with so many adapters; return it."""
    import large_registry
    from sqlalchemy import text

    from fusery.registry import Registry
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace

    registry = Registry(Workspace(replace(Settings.load(home), database_url=url)))
    registry.init()
    registry.bases.add(base, name="tiny", reference=True)
    large_registry.fill(registry, count)
    if url:
        with registry.workspace.database.write() as session:
            session.execute(text("ANALYZE"))  # autovacuum would, in a minute
    return registry


def commands(count: int, adapters: list[Path]) -> dict[str, Callable[[Any], Any]]:
    """Return the commands that are measured, about the adapter in the middle of so many."""
    import large_registry

    middle = count // 2
    task, name = large_registry.task_of(middle), large_registry.name_of(middle)
    new = iter(adapters)
    return {
        "list, newest first": lambda registry: registry.adapters.list(sort="created_at:desc", limit=20),
        "list, by loss": lambda registry: registry.adapters.list(sort="val_loss", limit=20),
        "list, by name": lambda registry: registry.adapters.list(sort="name:desc", limit=20),
        "list of a task, by loss": lambda registry: registry.adapters.list(
            task=task, sort="val_loss", limit=20
        ),
        "list of a base, by loss": lambda registry: registry.adapters.list(
            base="tiny", sort="val_loss", limit=20
        ),
        "list of a team, newest first": lambda registry: registry.adapters.list(
            tags={"team": "t3"}, sort="created_at:desc", limit=20
        ),
        "list where rank >= 8, newest first": lambda registry: registry.adapters.list(
            where="rank >= 8 and val_loss < 1.5", sort="created_at:desc", limit=20
        ),
        "show NAME": lambda registry: registry.adapters.show(name),
        "show DIGEST": lambda registry: registry.adapters.show(large_registry.digest_of(middle)[:12]),
        "history": lambda registry: registry.adapters.history(task),
        "lineage": lambda registry: registry.provenance.lineage(f"{task}@7"),
        "register": lambda registry: registry.adapters.register(next(new), base="tiny", task=task),
    }


def compare(
    small: Any, large: Any, sizes: tuple[int, int], adapters: list[Path], runs: int
) -> list[dict[str, Any]]:
    """Return a row for each command: its median milliseconds in both, and their ratio."""
    both = [(small, commands(sizes[0], adapters)), (large, commands(sizes[1], adapters))]
    rows = []
    for name in both[0][1]:
        times: list[list[float]] = [[], []]
        for run in range(runs + 1):
            for place, (registry, known) in enumerate(both):
                started = time.perf_counter()
                known[name](registry)
                if run:  # the first one warms up
                    times[place].append(1000 * (time.perf_counter() - started))
        medians = [statistics.median(each) for each in times]
        rows.append(
            {"command": name, "small": medians[0], "large": medians[1], "ratio": medians[1] / medians[0]}
        )
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    import tiny_models

    results: dict[str, Any] = {"small": options.small, "large": options.large, "databases": {}}
    with tempfile.TemporaryDirectory() as folder, servers(options.databases.split(",")) as known:
        base = tiny_models.make_base(Path(folder, "base"), layers=2)
        adapters = [
            tiny_models.make_adapter(Path(folder, f"adapter{seed}"), base, seed=seed)
            for seed in range(options.runs + 1)
        ]
        for database, create in known.items():
            started = time.perf_counter()
            small = fill(Path(folder, f"{database}-small"), create(), base, options.small)
            large = fill(Path(folder, f"{database}-large"), create(), base, options.large)
            filled = time.perf_counter() - started
            rows = compare(small, large, (options.small, options.large), adapters, options.runs)
            results["databases"][database] = {"filled_seconds": filled, "commands": rows}
            print(f"\n{database}, filled in {filled:.0f} s\n", flush=True)
            print(
                f"| command | {options.small:,} adapters | {options.large:,} adapters | ratio |\n| --- | ---: | ---: | ---: |"
            )
            for row in rows:
                print(
                    f"| {row['command']} | {row['small']:.1f} ms | {row['large']:.1f} ms | {row['ratio']:.2f} |"
                )
            small.close()
            large.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    worst = max(row["ratio"] for each in results["databases"].values() for row in each["commands"])
    print(f"\nLargest ratio {worst:.2f}, at most {BOUND:g} wanted")
    raise SystemExit(worst > BOUND)


if __name__ == "__main__":
    main()
