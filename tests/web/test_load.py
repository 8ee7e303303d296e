"""Many readers and writers at once: nothing that was answered is lost, and no update swallows another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import tiny_models
from page_server import ask, pages_of, post_json

from fusery.registry import Registry
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing

SOAK = "FUSERY_SOAK" in os.environ
ROUNDS = 200 if SOAK else 5
READERS, WRITERS = 16, 8


@pytest.fixture
def team(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    settings = Settings(home=tmp_path / "home", database_url=database_url, user="anna")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        base = tiny_models.make_base(tmp_path / "tiny")
        registry.bases.add(base, name="tiny")
        for number in range(WRITERS):
            folder = tiny_models.make_adapter(tmp_path / f"adapter{number}", base, seed=number)
            registry.adapters.register(folder, base="tiny", task=f"task{number}", val_loss=1.0)
        yield registry


@pytest.mark.slow
def test_readers_and_writers_at_once(team: Registry) -> None:
    secrets = [team.tokens.create(f"writer{number}", "approver").secret for number in range(WRITERS)]
    reader = team.tokens.create("reader", "reader").secret
    at_work = [True] * WRITERS
    with pages_of(team, TokenAuth(team, Proxies())) as address, ThreadPoolExecutor(WRITERS + READERS) as pool:

        def write(number: int) -> None:
            borne, adapter = {"authorization": f"Bearer {secrets[number]}"}, f"task{number}@1"
            for count in map(str, range(1, ROUNDS + 1)):
                for values in ({"note": count}, {"tags": {"shared": count}}):
                    body = {"reference": adapter, "reason": "counting", **values}
                    assert post_json(address, "/api/v1/adapters/amend", body, **borne).status == 200
                shown = ask(address, f"/api/v1/adapters/show?reference={adapter}", **borne)
                assert shown.json["note"] == count
            at_work[number] = False

        def look(number: int) -> None:
            borne, random = {"authorization": f"Bearer {reader}", "accept": "text/html"}, Random(number)
            places = ["/", "/log", "/tasks/task1", "/adapters/task2@1", "/bases", "/search?q=task", "/places"]
            while any(at_work):
                assert ask(address, random.choice(places), **borne).status == 200

        writing = [pool.submit(write, number) for number in range(WRITERS)]
        reading = [pool.submit(look, number) for number in range(READERS)]
        try:
            for done in writing:
                done.result()
        finally:
            at_work[:] = [False] * WRITERS
        for done in reading:
            done.result()
    for number in range(WRITERS):
        shown = team.adapters.show(f"task{number}@1")
        assert (shown.note, shown.tags["shared"]) == (str(ROUNDS), str(ROUNDS))
        made = [each for each in team.upkeep.log(reference=shown.name) if each.action == "adapter.amended"]
        assert [event.actor for event in made] == [f"writer{number}"] * 2 * ROUNDS
    assert team.upkeep.audit().problems == []
