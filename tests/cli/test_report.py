"""`fusery report`: what it writes, prints and refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fixture_types import Fusery


def test_a_page_for_people(stocked: Fusery, tmp_path: Path) -> None:
    ran = stocked("report", "--html", "report.html")
    assert ran.code == 0
    place = tmp_path / "report.html"
    assert ran.out.startswith(f"Wrote {place}: ")
    page = place.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "course_rec" in page
    assert stocked("report", "course_rec", "--html", "task.HTM", "-q").out == f"{tmp_path / 'task.HTM'}\n"


def test_json_says_what_is_in_the_page(stocked: Fusery, tmp_path: Path) -> None:
    ran = stocked("report", "course_rec@1", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["path"], ran.json["scope"], ran.json["subject"]) == (
        None,
        "adapter",
        "course_rec_v1_20260115",
    )
    assert ran.json.keys() >= {"at", "audit", "bytes", "fusery", "keys", "registry", "tasks", "tasks_listed"}
    assert not list(tmp_path.glob("*.html"))
    ran = stocked("report", "--html", "a.html", "--json")
    assert ran.json["bytes"] == (tmp_path / "a.html").stat().st_size


def test_another_file_is_not_replaced(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("mine")
    ran = stocked("report", "--html", "a.html")
    assert (ran.code, ran.out) == (2, "")
    assert "Hint: give another name, or --force" in ran.err
    assert (tmp_path / "a.html").read_text() == "mine"
    assert stocked("report", "--html", "a.html", "--force").code == 0
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list(tmp_path.glob(".*part*"))


def test_exit_code_1_when_the_audit_in_it_finds_something(stocked: Fusery, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as database, database:
        database.execute("UPDATE adapter SET val_loss = 0.1 WHERE version = 1")
    ran = stocked("report", "course_rec", "--html", "a.html")
    assert ran.code == 1
    assert "The audit found 1 problem" in ran.err
    assert "record_changed" in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--html FILE is needed"),
        (("--force", "--json"), "--force goes with --html"),
        (("--html", "a.pdf"), "a report is called .html"),
        (("--html", "."), "a report is called .html"),
        (("--html", "folder.html"), "is a folder"),
        (("--html", "nowhere/a.html"), "nowhere"),
        (("nothing", "--html", "a.html"), "there is no task or adapter 'nothing'"),
        (("tiny", "--html", "a.html"), "is a base model"),
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_exit_code_2(
    words: tuple[str, ...], said: str, stocked: Fusery, tmp_path: Path
) -> None:
    (tmp_path / "folder.html").mkdir()
    ran = stocked("report", *words)
    assert (ran.code, ran.out if "--json" not in words else "") == (2, "")
    assert said in ran.err + ran.out
    assert "Traceback" not in ran.err


def test_before_there_is_a_registry(fusery: Fusery, tmp_path: Path) -> None:
    ran = fusery("report", "--html", "a.html")
    assert (ran.code, ran.out) == (2, "")
    assert "Hint: fusery init" in ran.err
    assert not (tmp_path / "a.html").exists()
