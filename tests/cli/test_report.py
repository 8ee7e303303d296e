"""`fusery report`: what it writes, prints and refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fixture_types import Fusery

from .conftest import require_refusals


def test_a_page_and_a_document(stocked: Fusery, tmp_path: Path) -> None:
    ran = stocked("report", "course_rec@1", "--json")
    assert (ran.code, ran.err, list(tmp_path.glob("*.html"))) == (0, "", [])
    about = (ran.json["path"], ran.json["scope"], ran.json["subject"])
    assert about == (None, "adapter", "course_rec_v1_20260115")
    assert ran.json.keys() >= {"at", "audit", "bytes", "fusery", "keys", "registry", "tasks", "tasks_listed"}
    place = tmp_path / "a.html"
    assert stocked("report", "--html", "a.html").code == 0
    page = place.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "course_rec" in page
    assert stocked("report", "course_rec", "--html", "task.HTM", "-q").out == f"{tmp_path / 'task.HTM'}\n"
    ran = stocked("report", "--html", "a.html", "--force", "--json")
    assert (ran.code, ran.json["bytes"]) == (0, place.stat().st_size)
    assert not list(tmp_path.glob(".*part*"))


def test_exit_code_1_when_the_audit_in_it_finds_something(stocked: Fusery, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as database, database:
        database.execute("UPDATE adapter SET val_loss = 0.1 WHERE version = 1")
    ran = stocked("report", "course_rec", "--html", "a.html")
    assert ran.code == 1
    assert "The audit found 1 problem" in ran.err
    assert "record_changed" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    assert stocked("report").code == 2, "--html FILE is needed"
    (tmp_path / "folder.html").mkdir()
    require_refusals(
        stocked,
        ("report --force", "--html"),
        ("report --html a.pdf", ".html"),
        ("report --html .", ".html"),
        ("report --html folder.html", "is a folder"),
        ("report --html nowhere/a.html", "nowhere"),
        ("report nothing --html a.html", "unknown_reference"),
        ("report tiny --html a.html", "is a base model"),
        ("--registry none report --html a.html", "init"),
    )
    assert not (tmp_path / "a.html").exists()
