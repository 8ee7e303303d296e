"""`fusery ui`: the pages in a browser, and saved to a file."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import printed_documents
import pytest
from fixture_types import Fusery
from page_server import ask
from programs import running

from .conftest import require_refusals


@pytest.mark.slow
@pytest.mark.timing
def test_it_answers_until_it_is_ended(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("admin", "init").code == 0
    with running(tmp_path / "home", "ui", "--json") as (process, printed):
        found = json.loads(printed)
        printed_documents.require("ui", found)
        assert urlsplit(found["url"]).hostname == "127.0.0.1"
        assert ask(found["url"], found["entrance"].removeprefix(found["url"])).status == 303
        page = ask(found["url"], "/", accept="text/html")
        assert (page.status, "Nothing is registered yet" in page.text) == (200, True)
        process.send_signal(signal.SIGINT)  # SIGTERM: test_server
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


@pytest.mark.timing
def test_refusals(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    require_refusals(fusery, ("ui --no-browser --port 1", "schema"))
    assert fusery("admin", "init").code == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        require_refusals(fusery, (f"ui --no-browser --port {taken.getsockname()[1]}", "--port 0"))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fusery.registry.runtime.http_server", raising=False)
    require_refusals(fusery, ("ui --no-browser", "[web]"))


def test_a_page(stocked: Fusery, tmp_path: Path) -> None:
    place = tmp_path / "a.html"
    assert stocked("ui", "--save", "a.html").code == 0
    page = place.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "course_rec" in page
    assert stocked("ui", "course_rec", "--save", "task.HTM", "-q").out == "task.HTM\n"
    ran = stocked("ui", "--save", "a.html", "--force", "--json")
    assert (ran.code, ran.json["bytes"]) == (0, place.stat().st_size)
    assert not list(tmp_path.glob(".*part*"))


def test_exit_code_1_when_the_audit_in_it_finds_something(stocked: Fusery, tmp_path: Path) -> None:
    assert stocked("ui", "course_rec", "--save", "good.html", "--audit").code == 0
    assert "The audit found no problem" in (tmp_path / "good.html").read_text(encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as database, database:
        database.execute("UPDATE adapter SET val_loss = 0.1 WHERE version = 1")
    ran = stocked("ui", "course_rec", "--save", "a.html", "--audit")
    assert ran.code == 1
    assert "The audit found" in ran.err and "Next: fusery audit" in ran.err
    assert "record_changed" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_refusals_of_report(stocked: Fusery, tmp_path: Path) -> None:
    require_refusals(stocked, ("ui course_rec", "goes with --save"), ("ui --force", "goes with --save"))
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "there.html").write_text("mine")
    require_refusals(
        stocked,
        ("ui --save a.pdf", ".html"),
        ("ui --save .", ".html"),
        ("ui --save folder.html", "folder.html"),
        ("ui --save there.html", "--force"),
        ("ui --save nowhere/a.html", "nowhere"),
        ("ui nothing --save a.html", "unknown_reference"),
        ("ui tiny --save a.html", "cannot save a base model"),
        ("--registry none ui --save a.html", "schema"),
    )
    assert not (tmp_path / "a.html").exists()
