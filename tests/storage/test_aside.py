"""What is printed in a block goes to stderr, and what other threads print meanwhile where it did."""

# ruff: noqa: T201 - it is what is tested

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from fusery.storage.aside import printing_aside

pytestmark = pytest.mark.timing

Captured = pytest.CaptureFixture[str]


def test_what_is_printed_in_it_goes_to_stderr(capsys: Captured) -> None:
    before = sys.stdout
    with printing_aside():
        print("one")
        with printing_aside():
            sys.stdout.write("two\n")
        print("three", flush=True)
    print("four")
    assert capsys.readouterr() == ("four\n", "one\ntwo\nthree\n")
    assert sys.stdout is before


def test_other_threads_print_where_they_did(capsys: Captured) -> None:
    within, told = threading.Event(), threading.Event()

    def run() -> None:
        with printing_aside():
            print("a plugin")
            within.set()
            told.wait(60)
            print("still a plugin")

    thread = threading.Thread(target=run)
    thread.start()
    assert within.wait(60)
    print("data")
    told.set()
    thread.join()
    print("more data")
    assert capsys.readouterr() == ("data\nmore data\n", "a plugin\nstill a plugin\n")


def test_what_was_bound_in_it_stays_aside(capsys: Captured) -> None:
    with printing_aside():
        handler = logging.StreamHandler(sys.stdout)
    handler.emit(logging.LogRecord("odd", logging.INFO, "", 1, "loaded", (), None))
    with printing_aside():
        handler.emit(logging.LogRecord("odd", logging.INFO, "", 1, "at work", (), None))
    assert capsys.readouterr() == ("", "loaded\nat work\n")


def test_without_a_stdout_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with printing_aside():
        print("lost")
    assert sys.stdout is None


@pytest.mark.parametrize("left", ["None", "a file", "nothing", "an error"])
def test_stdout_is_restored(left: str, capsys: Captured, tmp_path: Path) -> None:
    before = sys.stdout
    with (tmp_path / "file").open("w") as file, suppress(ZeroDivisionError), printing_aside():
        if left == "nothing":
            del sys.stdout
        elif left == "an error":
            raise ZeroDivisionError
        else:
            sys.stdout = {"None": None, "a file": file}[left]  # type: ignore[assignment]
    assert sys.stdout is before
    print("data")
    assert capsys.readouterr() == ("data\n", "")
