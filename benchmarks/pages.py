"""Pages of a registry with 100,000 adapters beside the same pages of one with 1,000: `python benchmarks/pages.py`.

On SQLite and PostgreSQL, each page by turns from both, the median of the ratios; a page has so many statements, and takes at
most so many times as long.  The server is the real one, in a thread of this process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

BOUND = 1.5
"""Times of the page of the small registry, at most."""

STATEMENTS = 12
"""Of a page, at most."""

SMALL, LARGE = 1_000, 100_000


def main() -> int:
    """Fill registries, time pages, print a line for each; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--adapters", type=int, default=LARGE)
    arguments = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(prefix="fusery-pages-") as name, ExitStack() as opened:
        for database in ("sqlite", "postgresql"):
            small = opened.enter_context(served(Path(name), database, SMALL))
            large = opened.enter_context(served(Path(name), database, arguments.adapters))
            print(f"{database}: {SMALL:,} adapters, {arguments.adapters:,} adapters, ratio, statements")
            for page, path in paths().items():
                statements = counted(large, path)
                few, many, ratios = [], [], []
                for number in range(arguments.rounds):
                    order = (small, large) if number % 2 else (large, small)
                    took = {address: timed(address, path) for address in order}
                    few.append(took[small])
                    many.append(took[large])
                    ratios.append(took[large] / took[small])
                ratio = statistics.median(ratios)
                fine = ratio <= BOUND and statements <= STATEMENTS
                missed += not fine
                print(
                    f"  {page:<15}{statistics.median(few) * 1e3:8.1f} ms{statistics.median(many) * 1e3:8.1f} ms"
                    f"{ratio:7.2f}{statements:5}{'' if fine else '  missed'}",
                    flush=True,
                )
    return 1 if missed else 0


def paths() -> Mapping[str, str]:
    """Return the pages: of things that both registries have."""
    import large_registry

    task, name, other = large_registry.task_of(777), large_registry.name_of(777), large_registry.name_of(778)
    return {
        "start": "/",
        "tasks named": "/?q=task_00000",
        "task": f"/tasks/{task}",
        "task filtered": f"/tasks/{task}?where=val_loss+%3C+1&sort=rank",
        "adapter": f"/adapters/{name}",
        "compare": f"/compare?ref={name}&ref={other}",
        "alias": f"/aliases/{task}/prod",
        "bases": "/bases",
        "base": "/bases/tiny",
        "lineage": f"/lineage/{name}",
        "its picture": f"/pictures/lineage/{name}",
        "base's lineage": "/lineage/tiny",
        "fused": "/fused",
        "audit": "/audit",
        "places": "/places",
        "log": "/log",
        "log of one": f"/log?reference={name}",
        "search": f"/search?q={name}",
        "to choose": f"/acts/promote?adapter={name}",
        "to promote": f"/acts/promote?adapter={name}&alias=prod",
    }


@contextmanager
def served(folder: Path, database: str, count: int) -> Iterator[str]:
    """Fill a registry, and yield the address of its pages, opened by who may act."""
    import large_registry
    import postgres_server
    import tiny_models
    from page_server import pages_of
    from sqlalchemy import text

    from fusery.registry import Registry
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace
    from fusery.web.auth import LocalAuth

    place = folder / f"{database}-{count}"
    url = ""
    with ExitStack() as opened:
        if database == "postgresql":
            url = postgres_server.PostgresDatabases(
                opened.enter_context(postgres_server.postgres_server())
            ).create()
        settings = Settings(home=place / "home", database_url=url, user="anna", cache_limit=1 << 40)
        registry = opened.enter_context(Registry(Workspace(settings)))
        registry.init()
        registry.bases.add(tiny_models.make_base(place / "tiny", layers=2), name="tiny", reference=True)
        large_registry.fill(registry, count)
        if url:
            with registry.workspace.database.write() as session:
                session.execute(text("ANALYZE"))  # as autovacuum does by itself, some time later
        registry.aliases.set(f"{large_registry.task_of(777)}#prod", large_registry.name_of(770))
        registry.deployments.record(large_registry.name_of(770), "https://edge.example")
        door = LocalAuth("anna")
        COOKIES[address := opened.enter_context(pages_of(registry, door))] = f"{door.cookie}={door.key}"
        yield address


COOKIES: dict[str, str] = {}


def timed(address: str, path: str) -> float:
    """Return the seconds of a page."""
    from page_server import ask

    started = time.perf_counter()
    answer = ask(address, path, accept="text/html", cookie=COOKIES[address])
    assert answer.status in (200, 303), (path, answer.status)
    return time.perf_counter() - started


def counted(address: str, path: str) -> int:
    """Return the SELECTs of a page that was asked for before."""
    import query_plans

    timed(address, path)
    with query_plans.recorded() as queries:
        timed(address, path)
    return len(queries)


if __name__ == "__main__":
    sys.exit(main())
