"""Whatever moment a command is killed at: the audit is clean, and the same command then succeeds."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from installation import Installation

MOMENTS = 14
"""Moments per command, spread evenly over its run with some jitter."""

WORDS: dict[str, tuple[str, ...]] = {
    "register": ("register", "second", "--base", "tiny", "--task", "course_rec"),
    "fuse": ("fuse", "course_rec@1"),
    "materialize": ("materialize", "course_rec@1", "model"),
    "materialize docker": ("materialize", "course_rec@1", "bundle", "--target", "docker", "--force"),
    "base add": ("base", "add", "other", "--name", "other"),
}


@pytest.fixture
def prepared(installation: Installation) -> Installation:
    import tinymodels

    installation.run("register", "first", "--base", "tiny", "--task", "course_rec")
    tinymodels.make_base(installation.folder / "other", layers=2, seed=9)
    return installation


def was_starting(err: str) -> bool:
    """Whether Python was interrupted before it came to the first line of the command.

    Then SIGINT ends the process as the system does it, or, while `site` runs, with a traceback of Python's own.
    """
    return err.rstrip().endswith("KeyboardInterrupt") and "<frozen site>" in err and "/cli/" not in err


def duration(installation: Installation, words: tuple[str, ...]) -> float:
    """Return the seconds that the command takes up to its end, on a copy of the installation."""
    import shutil

    copy = installation.folder.parent / f"{installation.folder.name}-timed"
    shutil.copytree(installation.folder, copy, symlinks=True)
    other = Installation(copy, copy / "tiny", copy / "first", copy / "second")
    started = time.monotonic()
    other.run(*words)
    taken = time.monotonic() - started
    shutil.rmtree(copy)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_killed_at_any_moment(name: str, how: signal.Signals, prepared: Installation) -> None:
    words = WORDS[name]
    whole = duration(prepared, words)
    jitter = random.Random(f"{name}{how}")
    ended = 0
    for moment in range(MOMENTS):
        process = prepared.start(*words)
        time.sleep(whole * (moment + jitter.random()) / MOMENTS)
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -how) or was_starting(err), err
        ended += process.returncode != 0
        audit = prepared.json("audit")
        assert audit["ok"], (moment, audit["problems"])
    assert ended, "no run was hit: the moments were too late"
    prepared.run(*words)
    assert prepared.json("audit")["ok"]
    check_result(name, prepared)


def check_result(name: str, prepared: Installation) -> None:
    """The command that finally ran did its whole job, once."""
    if name == "register":
        assert [row["version"] for row in prepared.json("list")] == [1, 2]
    elif name == "base add":
        assert [row["name"] for row in prepared.json("base", "list")] == ["tiny", "other"]
    elif name == "fuse":
        again = prepared.json("fuse", "course_rec@1")
        assert again["cached"]
        assert (Path(again["path"]) / "model.safetensors").is_file()
    else:
        target = prepared.folder / ("model" if name == "materialize" else "bundle")
        assert (target / "fusery.json").is_file()
        assert [path for path in prepared.folder.iterdir() if ".fusery-" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_push_killed_at_any_moment(how: signal.Signals, prepared: Installation) -> None:
    """Both registries are whole at every moment, and the next push copies what is still missing."""
    prepared.run("register", "second", "--base", "tiny", "--task", "course_rec", "--parent", "course_rec@1")
    prepared.run("fuse", "course_rec@1", "--publish", "full")
    words = ("push", "course_rec", "--fused", "--to", "there")
    whole = duration(prepared, words)
    jitter = random.Random(f"push{how}")
    ended = 0
    for moment in range(2 * MOMENTS):
        process = prepared.start(*words)
        time.sleep(whole * (moment + jitter.random()) / (2 * MOMENTS))
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -how) or was_starting(err), err
        ended += process.returncode != 0
        for home in ("home", "there"):
            if holds_a_registry(prepared.folder / home):
                audit = prepared.json("--home", home, "audit")
                assert audit["ok"], (moment, home, audit["problems"])
        if process.returncode == 0:
            shutil.rmtree(prepared.folder / "there")  # from the beginning again
    assert ended, "no run was hit: the moments were too late"
    prepared.run(*words)
    assert prepared.json(*words)["copied"] == 0
    prepared.run("--home", "there", "gc", "--grace", "0", "-y")
    rows = [[row["name"] for row in prepared.json("--home", home, "list")] for home in ("home", "there")]
    assert rows[0] == rows[1]
    there, home = stored(prepared.folder / "there"), stored(prepared.folder / "home")
    assert there == home, "not exactly the live bytes"
    assert prepared.json("--home", "there", "audit")["ok"]


def holds_a_registry(folder: Path) -> bool:
    """Whether a push got as far as making the registry; before that there is nothing to look at."""
    if not (folder / "fusery.db").exists():
        return False
    with closing(sqlite3.connect(folder / "fusery.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return "registry" in tables and bool(connection.execute("SELECT 1 FROM registry").fetchall())


def stored(home: Path) -> set[str]:
    """Return the names of the blobs in a home's store."""
    return {path.name for path in (home / "store" / "blobs").rglob("*") if path.is_file()}
