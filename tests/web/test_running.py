"""The server as a command runs it: until a signal comes, and with what a team's server says and does besides."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from page_server import ask

from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.uploads import USUAL
from fusery.storage.errors import FuseryError
from fusery.web import running, team
from fusery.web.running import Tls, serve_pages
from fusery.web.team import TeamRequest, serve_team

pytestmark = pytest.mark.timing


def test_pages_are_served_until_a_signal_comes(shown: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, found = list[str](), list[Any]()
    # The threads of other tests' servers would be waited for.
    monkeypatch.setattr(running, "_end_what_is_left", lambda: ended.append("ended"))
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.NOTSET)

    def ready(address: str, entrance: str, once: str) -> None:
        def look() -> None:
            paths = ("/bases", *(each.removeprefix(address) for each in (entrance, once, once)))
            found.extend([address.rpartition(":")[0], *(ask(address, path).status for path in paths)])
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=look).start()

    before = signal.getsignal(signal.SIGINT)
    assert serve_pages(shown, ready=ready) == 0
    assert found == ["http://127.0.0.1", 200, 303, 303, 404]
    assert (signal.getsignal(signal.SIGINT), ended) == (before, ["ended"])
    assert {logger.level for logger in loggers} == {logging.CRITICAL}


def test_what_cannot_be_served_is_an_error_before_it_is(shown: Registry, tmp_path: Path) -> None:
    def serves(*_: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    (tmp_path / "pem").write_text("no certificate")
    with pytest.raises(BadInputError):
        serve_pages(shown, tls=Tls(certificate=tmp_path / "pem", key=tmp_path / "pem"), ready=serves)
    with Registry.open(tmp_path / "nothing") as empty, pytest.raises(FuseryError):
        serve_pages(empty, ready=serves)


class Stopped(Exception):
    """The process would have ended."""


def test_a_page_that_takes_long_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    done, slept = list[str](), list[float]()

    class Stream(StringIO):
        def flush(self) -> None:
            done.append("flush")

    def stop(code: int) -> None:
        raise Stopped

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Stream())
    monkeypatch.setattr(logging, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(os, "_exit", stop)
    now = iter((0.0, 0.25, 0.75, 1.0, 1.25, 0.0))
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=slept.append))
    monkeypatch.setattr(running, "_at_work", lambda: iter([True]))
    with pytest.raises(Stopped):
        running._end_what_is_left()
    assert (done, len(slept)) == (["shutdown", "flush", "flush"], 3)
    monkeypatch.setattr(running, "_at_work", lambda: iter(()))
    running._end_what_is_left()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the server of a team is started with; it ends at once."""
    calls: list[dict[str, Any]] = []

    def serve(registry: Registry, **options: Any) -> int:
        calls.append({**options, "threads": {thread.name for thread in threading.enumerate()}})
        return 0

    monkeypatch.setattr(team, "serve_pages", serve)
    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET", raising=False)
    yield calls


def test_a_team_s_server_delivers_webhooks_and_says_what_is_missing(
    own: Registry, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def serve(**options: Any) -> list[str]:
        said.clear()
        assert (
            serve_team(own, TeamRequest(**options), ready=lambda *_: None, reporter=Reporter(said.append))
            == 0
        )
        return said

    [nobody] = serve(port=0)
    assert "fusery token create" in nobody
    assert (served[0]["uploads"], "webhooks" in served[0]["threads"]) == (USUAL, False)
    own.tokens.create("one", "reader")
    assert serve(host="localhost", largest_blob=7) == []
    assert served[1]["uploads"].largest == 7
    own.webhooks.add("https://hooks.example/x", "alias.moved")
    [missing] = serve()
    assert "FUSERY_WEBHOOK_SECRET" in missing
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "whsec_" + "a" * 32)
    assert serve() == []
    assert "webhooks" in served[3]["threads"]
    assert "webhooks" not in {thread.name for thread in threading.enumerate()}
