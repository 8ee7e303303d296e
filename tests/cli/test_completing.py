"""Completion through the protocol that click's scripts for shells speak, and once through bash itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from fixture_types import Fusery

from fusery.cli.commands import COMMANDS
from fusery.cli.completing import Recorded, kinds_of
from fusery.cli.main import cli, run

from .conftest import snapshot

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Answer as `fusery` does when bash asks how the last of some words goes on."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_FUSERY_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["fusery", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run([])
        monkeypatch.delenv("_FUSERY_COMPLETE")
        captured = capsys.readouterr()
        assert (ended.value.code, captured.err) == (0, "")
        return [line for line in captured.out.splitlines() if line]

    return ask


@pytest.fixture
def known(stocked: Fusery) -> Fusery:
    """A registry with an alias and a webhook."""
    stocked("alias", "set", "course_rec@2", "prod")
    stocked("admin", "webhook", "add", "https://hooks.example.org", "--on", "alias.moved", "--name", "ci")
    return stocked


NAMES: list[tuple[tuple[str, ...], list[str]]] = [
    (("show", ""), [SECOND, FIRST, "course_rec@latest", "course_rec#prod"]),
    (("show", "COURSE_REC_V1"), [FIRST]),
    (("show", "course_rec#"), ["course_rec#prod"]),
    (("diff", FIRST, "course_rec_v2"), [SECOND]),
    (("audit", FIRST, "ti"), ["tiny"]),
    (("list", "--base", "T"), ["tiny"]),
    (("register", "folder", "--task", ""), ["course_rec"]),
    (("log", "course_rec@l"), ["course_rec@latest"]),
    (("diff", "course_rec"), [SECOND, FIRST, "course_rec@latest", "course_rec#prod", "course_rec"]),
    (("alias", "set", FIRST, ""), ["prod"]),
    (("alias", "rules", "set", ""), ["prod", "course_rec#prod"]),
    (("log", "course_rec#"), ["course_rec#prod"]),
    (("admin", "webhook", "key", ""), ["ci"]),
    (("lineage", "--down", "course_rec_v1"), [FIRST]),
    (("show", "%"), []),
]


def test_names_on_record(known: Fusery, complete: Complete, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    for words, names in NAMES:
        assert complete(*words) == [f"plain,{name}" for name in names], words
    assert complete("materialize", FIRST, "./o") == ["file,./o"], "a path"
    assert complete("sign", "course_rec_v1") == [f"plain,{FIRST}"]
    assert complete("sign", "./o") == ["file,./o"]
    assert snapshot(tmp_path) == before, "nothing is written"


def test_the_home_that_is_named(known: Fusery, complete: Complete, tmp_path: Path) -> None:
    shutil.move(tmp_path / "home", tmp_path / "elsewhere")
    assert complete("show", "") == []
    assert f"plain,{FIRST}" in complete("--registry", str(tmp_path / "elsewhere"), "show", "")


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    """Yield every parameter with its command."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        below = command.commands.items() if isinstance(command, click.Group) else ()
        for place, each in ((name, command), *((f"{name} {inner}", one) for inner, one in below)):
            for parameter in each.params:
                yield place, parameter


def test_every_parameter_that_means_a_record_knows_some() -> None:
    meant = ("REF", "TASK", "ALIAS", "BASE")
    for place, parameter in parameters():
        metavar = (parameter.metavar or "").replace("BASE_", "")
        if parameter.name in ("base", "task", "trained_on") or any(word in metavar for word in meant):
            assert isinstance(parameter.type, Recorded), (place, parameter.name)
            assert kinds_of(place, parameter), (place, parameter.name)


def test_without_a_registry_there_are_no_names(
    fusery: Fusery, complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(name: str, data: bytes) -> Callable[[Path], object]:
        return lambda home: (home.mkdir(), (home / name).write_bytes(data))

    spoils: tuple[Callable[[Path], object], ...] = (
        lambda home: None,
        lambda home: home.mkdir(),
        lambda home: home.write_text("a file"),
        lambda home: (home / "fusery.db").mkdir(parents=True),
        put("fusery.db", b""),
        put("fusery.db", b"no database" * 500),
        put("config.toml", b"not = [toml"),
        put("config.toml", b"user = 'ann'"),
    )
    for number, spoil in enumerate(spoils):
        home = tmp_path / str(number)
        spoil(home)
        before = snapshot(tmp_path)
        monkeypatch.setenv("FUSERY_REGISTRY", str(home))
        assert complete("show", "") == complete("list", "--base", "") == [], number
        assert snapshot(tmp_path) == before, number
    for url in ("nonsense", "sqlite:////nowhere/f.db", "postgresql://u:p@127.0.0.1:1/none", "://"):
        monkeypatch.setenv("FUSERY_DATABASE_URL", url)
        assert complete("show", "") == [], url


def test_names_that_others_have_just_written(known: Fusery, complete: Complete, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as other:
        other.execute("INSERT INTO task (id, name) VALUES (99, 'fresh')")
        other.commit()
        assert (tmp_path / "home" / "fusery.db-wal").stat().st_size
        assert complete("list", "--task", "") == ["plain,course_rec", "plain,fresh"]
        other.execute("BEGIN IMMEDIATE")
        assert complete("list", "--task", "f") == ["plain,fresh"], "a writer is not waited for"
        other.rollback()
        other.executemany("INSERT INTO task (name) VALUES (?)", [(f"t{n:05}",) for n in range(300)])
        other.commit()
    assert len(complete("list", "--task", "")) == 200, "the newest of many"
    assert complete("list", "--task", "t00004") == ["plain,t00004"]


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_in_bash_itself(known: Fusery, tmp_path: Path) -> None:
    script = (
        'eval "$(_FUSERY_COMPLETE=bash_source fusery)"; COMP_WORDS=(fusery show course_rec_v); COMP_CWORD=2; '
        '_fusery_completion fusery; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [SECOND, FIRST]
