"""`fusery ui` as a process: it says where it is, answers there and nowhere else, and ends with Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import printed_documents
import pytest
from page_process import MAIN, running
from page_server import ask
from waiting import wait_until

from .conftest import Fusery, require_refusals

SLOW = f"import time, fusery.registry.api.bases as b; b.Bases.list = lambda self: time.sleep(60); {MAIN}"
"""A registry whose page of base models takes a minute."""


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_it_is_ended(fusery: Fusery, tmp_path: Path, number: signal.Signals) -> None:
    assert fusery("init").code == 0
    with running(tmp_path / "home", "ui", "--json") as (process, printed):
        found = json.loads(printed)
        printed_documents.require("ui", found)
        assert urlsplit(found["url"]).hostname == "127.0.0.1"
        assert ask(found["url"], found["entrance"].removeprefix(found["url"])).status == 303
        page = ask(found["url"], "/", accept="text/html")
        assert (page.status, "Nothing is registered yet" in page.text) == (200, True)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


@pytest.mark.timing
def test_refusals(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    require_refusals(fusery, ("ui --no-browser --port 1", "init"))
    assert fusery("init").code == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        require_refusals(fusery, (f"ui --no-browser --port {taken.getsockname()[1]}", "--port 0"))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    require_refusals(fusery, ("ui --no-browser", "[web]"))


@pytest.mark.slow
@pytest.mark.timing
def test_the_address_is_printed_for_people(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("init").code == 0
    with running(tmp_path / "home", "ui", "--no-browser") as (_, line):
        assert re.search(r" http://127\.0\.0\.1:\d+/enter/[\w-]{43};", line)
        assert line.endswith("; Ctrl-C ends it.\n")


@pytest.mark.slow
@pytest.mark.timing
def test_it_ends_although_a_page_is_being_made(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("init").code == 0
    with running(tmp_path / "home", "ui", "--json", main=SLOW) as (process, printed):
        url = urlsplit(json.loads(printed)["url"])
        with socket.create_connection((url.hostname or "", url.port or 0)) as asking:
            asking.sendall(b"GET /bases HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: ask(url.geturl(), "/style.css").status == 200)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=40)
        assert (process.returncode, said) == (0, "")
