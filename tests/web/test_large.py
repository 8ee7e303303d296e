"""Pages of a registry with very many adapters: few statements, and lists a page at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import large_registry
import pytest
import query_plans
import tiny_models
from page_server import ask, pages_of
from report_registry import open_at

from fusery.registry import Registry
from fusery.web import sheets
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

COUNT = 4_000


@pytest.fixture(scope="module")
def crowded(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("crowd")
    base = tiny_models.make_base(folder / "tiny", layers=2)
    (folder / "home").mkdir()
    (folder / "home" / "fusery.db").write_bytes(sqlite_template.read_bytes())
    with open_at(folder / "home") as registry:
        registry.bases.add(base, name="tiny", reference=True)
        large_registry.fill(registry, COUNT)
        registry.aliases.set("prod", large_registry.name_of(5))
        registry.deployments.record(large_registry.name_of(5), "https://edge.example")
        door = LocalAuth("anna")
        with pages_of(registry, door) as address:
            yield Crowd(registry, address, f"{door.cookie}={door.key}")


@dataclass(frozen=True)
class Crowd:
    registry: Registry
    address: str
    cookie: str

    def text(self, path: str) -> str:
        return ask(self.address, path, cookie=self.cookie, **HTML).text

    def json(self, path: str) -> Any:
        return ask(self.address, path, cookie=self.cookie, **JSON).json


HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}
MOST_STATEMENTS = 13  # of a page, however much is on record


def test_no_page_asks_the_database_much_or_reads_a_whole_table(crowded: Crowd) -> None:
    task, name = large_registry.task_of(7), large_registry.name_of(7)
    paths = [
        "/",
        f"/tasks/{task}",
        f"/tasks/{task}?where=val_loss+%3C+1&sort=rank",
        f"/adapters/{name}",
        f"/compare?ref={'&ref='.join(large_registry.name_of(number) for number in range(10, 60))}",
        f"/aliases/{task}/prod",
        "/bases",
        "/bases/tiny",
        f"/lineage/{name}",
        f"/pictures/lineage/{name}",
        "/lineage/tiny",
        "/places",
        "/fused",
        "/log",
        f"/log?reference={name}",
        f"/search?q={name}",
        "/search?q=deadbeef",
        f"/acts/aliases/promote?reference={name}&alias=prod",
    ]
    for path in paths:
        crowded.text(path)
        with query_plans.recorded() as queries:
            assert ask(crowded.address, path, cookie=crowded.cookie, **HTML).status in (200, 303)
        assert len(queries) <= MOST_STATEMENTS, (path, len(queries))
        assert query_plans.whole_tables(crowded.registry.workspace.database, queries) == [], path


def test_a_base_shows_its_adapters_a_page_at_a_time(crowded: Crowd) -> None:
    name = large_registry.name_of
    newest = crowded.text("/bases/tiny")
    assert name(COUNT - 1) in newest and name(COUNT - 51) not in newest
    assert 'href="?offset=50"' in newest
    oldest = crowded.text(f"/bases/tiny?offset={COUNT - 50}")
    assert name(0) in oldest and "Older" not in oldest and f"{COUNT:,}" in oldest
    assert name(0) not in crowded.text(f"/bases/tiny?offset={COUNT}")
    found = crowded.json(f"/bases/tiny?offset={COUNT - 70}")
    assert (found["next"], len(found["adapters"]), found["adapters"][-1]) == (COUNT - 20, 50, name(69))
    cut = crowded.json("/lineage/tiny")
    assert cut["cut"] and len(cut["nodes"]) == sheets.THINGS + 1
    assert {name(COUNT - 1), name(COUNT - 60)} <= {node["name"] for node in cut["nodes"]}
    assert "--complete" in crowded.text("/lineage/tiny")


def test_moves_and_places_are_shown_a_page_at_a_time(crowded: Crowd) -> None:
    task, name = large_registry.task_of(205), large_registry.name_of
    for number in range(53):
        crowded.registry.aliases.set("turns", name(200 + number % 2))
        crowded.registry.deployments.record(name(201), f"shelf {number:02}")
    for path, key, glue in (
        (f"/aliases/{task}/turns", "moves", "?"),
        ("/places?at=2100-01-01", "deployments", "&"),
    ):
        first, last = (crowded.json(f"{path}{glue}offset={offset}") for offset in (0, 50))
        assert (first["next"], last["next"]) == (50, None)
        every = first[key] + last[key]
        assert len(every) == len({json.dumps(each) for each in every}) >= 53
    moves = crowded.json(f"/aliases/{task}/turns")["moves"]
    assert [each["to"] for each in moves[:2]] == [name(200), name(201)]
    assert 'href="?offset=50&amp;at=2100-01-01"' in crowded.text("/places?at=2100-01-01")
