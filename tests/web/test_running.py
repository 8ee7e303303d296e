"""The server as a command runs it: until a signal comes, and with what a team's server says and does besides."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from page_server import ask

from fusery.registry import Registry, Reporter
from fusery.storage.errors import FuseryError
from fusery.web import running
from fusery.web.running import WebOptions, serve_pages, serve_team

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

    # Whoever starts the tests in the background has them ignore SIGINT, and then the server would, too.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert serve_pages(shown, WebOptions(), ready=ready) == 0
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)
    assert found == ["http://127.0.0.1", 200, 303, 303, 404]
    assert (after, ended) == (signal.default_int_handler, ["ended"])
    assert {logger.level for logger in loggers} == {logging.CRITICAL}


def test_what_cannot_be_served_is_an_error_before_it_is(shown: Registry, tmp_path: Path) -> None:
    bad = tmp_path / "pem"
    bad.write_text("no key")
    with Registry.open(tmp_path / "nothing") as empty:
        for registry, tls in ((shown, (bad, bad)), (empty, None)):
            with pytest.raises(FuseryError):
                serve_pages(
                    registry, WebOptions(tls=tls), ready=lambda *_: os.kill(os.getpid(), signal.SIGINT)
                )


def test_a_page_that_takes_long_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    done, slept, now = list[str](), list[float](), iter((0.0, 0.25, 0.75, 1.0, 1.25))
    stream = SimpleNamespace(flush=lambda: done.append("flush"))
    monkeypatch.setattr(running, "sys", SimpleNamespace(stdout=stream, stderr=stream))
    monkeypatch.setattr(logging, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(running, "os", SimpleNamespace(_exit=sys.exit))
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=slept.append))
    worker = SimpleNamespace(name="AnyIO worker thread")
    monkeypatch.setattr(running, "threading", SimpleNamespace(enumerate=lambda: [worker]))
    with pytest.raises(SystemExit):
        running._end_what_is_left()
    assert (done, len(slept)) == (["shutdown", "flush", "flush"], 3)


def test_a_team_s_server_delivers_webhooks(own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(**options: Any) -> tuple[list[str], bool]:
        said, found = list[str](), list[bool]()

        def served(*_: object, **__: object) -> int:
            found.append("webhooks" in {thread.name for thread in threading.enumerate()})
            return 0

        monkeypatch.setattr(running, "serve_pages", served)
        wanted = WebOptions(**options)
        assert serve_team(own, wanted, ready=lambda *_: None, reporter=Reporter(said.append)) == 0
        return said, found[0]

    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET", raising=False)
    said, delivers = serve(port=0)
    assert ("fusery admin token create" in said[0], delivers) == (True, False)
    own.tokens.create("one", "reader")
    assert serve(host="localhost") == ([], False)
    own.webhooks.add("https://hooks.example/x", "alias.moved")
    assert "FUSERY_WEBHOOK_SECRET" in serve()[0][0]
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "whsec_" + "a" * 32)
    assert serve() == ([], True)
    assert "webhooks" not in {thread.name for thread in threading.enumerate()}
