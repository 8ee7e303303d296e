"""Many at once, and a server that dies: nothing that was answered is lost, and no update swallows another."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from random import Random

import pytest
import tiny_models
from forked_page import forked
from page_server import ask, pages_of, post_json
from waiting import wait_until

from fusery.registry import Registry
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace
from fusery.web.doors import Proxies, TeamDoor

pytestmark = pytest.mark.timing

SOAK = "FUSERY_SOAK" in os.environ
ROUNDS = 200 if SOAK else 5
READERS, WRITERS = 16, 8


@pytest.fixture
def team(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """A registry with eight adapters."""
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
    """Each writer counts in a note of its own and in a tag; each reader looks at whatever there is meanwhile."""
    secrets = [team.tokens.create(f"writer{number}", "approver").secret for number in range(WRITERS)]
    reader = team.tokens.create("reader", "reader").secret
    at_work = [True] * WRITERS
    with pages_of(team, TeamDoor(team, Proxies())) as address, ThreadPoolExecutor(WRITERS + READERS) as pool:

        def write(number: int) -> None:
            borne = {"authorization": f"Bearer {secrets[number]}"}
            for count in map(str, range(1, ROUNDS + 1)):
                body = {"adapter": f"task{number}@1", "note": count, "reason": "counting"}
                assert post_json(address, "/api/v1/acts/note", body, **borne).status == 200
                shown = ask(address, f"/api/v1/adapters/task{number}@1", **borne)
                assert (shown.status, shown.json["note"]) == (200, count)
                body = {"adapter": f"task{number}@1", "tags": {"shared": count}, "reason": ""}
                assert post_json(address, "/api/v1/acts/tags", body, **borne).status == 200
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


@pytest.mark.slow
def test_a_server_that_is_killed_has_lost_nothing_it_answered(
    team: Registry, database_url: str, tmp_path: Path
) -> None:
    secret = team.tokens.create("ops", "admin").secret
    borne, random = {"authorization": f"Bearer {secret}"}, Random(15)
    answered: list[list[str]] = [[] for _ in range(4)]
    for life in range(8 if SOAK else 4):
        words = ("server", "--port", "0", "--json")
        with (
            forked(tmp_path / "home", *words, FUSERY_DATABASE_URL=database_url) as (process, printed),
            ExitStack() as after,
        ):
            url = json.loads(printed)["url"]

            def write(number: int, life: int, url: str = url) -> None:
                for step in range(10_000):
                    note = f"{number}-{life}-{step}"
                    body = {"adapter": f"task{number}@1", "note": note, "reason": note}
                    try:
                        answer = post_json(url, "/api/v1/acts/note", body, **borne)
                    except (OSError, HTTPException):  # half an answer is none
                        return
                    if answer.status != 200:
                        return
                    answered[number].append(note)

            threads = [threading.Thread(target=write, args=(number, life)) for number in range(len(answered))]
            for thread in threads:
                thread.start()
                after.callback(thread.join, 120)
            before = sum(map(len, answered))
            wait_until(lambda before=before: sum(map(len, answered)) >= before + 3)
            time.sleep(random.random() / 2)
            process.kill()
    for number, notes in enumerate(answered):
        told = [
            event.detail.get("reason")
            for event in team.upkeep.log(reference=f"task{number}@1")
            if event.action == "adapter.amended"
        ]
        assert [note for note in told if note in set(notes)] == notes
        # What was on its way when the server died may have been done or not, and is whole.
        assert len(told) - len(notes) <= (8 if SOAK else 4)
        assert team.adapters.show(f"task{number}@1").note == told[-1]
    assert team.upkeep.audit().problems == []
