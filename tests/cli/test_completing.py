"""Completion through the protocol that click's scripts for shells speak, and once through bash itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from fixture_types import Fusery

from fusery.cli.commands import COMMANDS
from fusery.cli.completing import Recorded, kinds_of
from fusery.cli.main import cli, run

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


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all that lies in a folder."""
    found = {str(path): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items()}


@pytest.fixture
def known(stocked: Fusery) -> Fusery:
    """With an alias and a webhook."""
    stocked("alias", "set", "course_rec@2", "prod")
    stocked("webhook", "add", "https://hooks.example.org", "--on", "alias.moved", "--name", "ci")
    return stocked


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("show", ""), [SECOND, FIRST, "course_rec@latest", "course_rec#prod"]),
        (("show", "COURSE_REC_V1"), [FIRST]),
        (("show", "course_rec#"), ["course_rec#prod"]),
        (("diff", FIRST, "course_rec_v2"), [SECOND]),
        (("fuse", "course_rec_v2", "--with", "course_rec_v1"), [FIRST]),
        (("lineage", "ti"), ["tiny"]),
        (("audit", FIRST, "ti"), ["tiny"]),
        (("base", "show", ""), ["tiny"]),
        (("list", "--base", "T"), ["tiny"]),
        (("register", "folder", "--base", ""), ["tiny"]),
        (("register", "folder", "--trained-on", ""), ["tiny"]),
        (("register", "folder", "--task", ""), ["course_rec"]),
        (("history", ""), ["course_rec"]),
        (("compare", "course_rec"), [SECOND, FIRST, "course_rec@latest", "course_rec#prod", "course_rec"]),
        (("alias", "set", FIRST, ""), ["prod"]),
        (("alias", "rollback", ""), ["course_rec#prod"]),
        (("rules", "set", ""), ["prod", "course_rec#prod"]),
        (("events", "--ref", "course_rec#"), ["course_rec#prod"]),
        (("impact", "base:"), ["base:tiny"]),
        (("webhook", "add", "https://a.example", "--task", ""), ["course_rec"]),
        (("webhook", "show", ""), ["ci"]),
        (("impact", "adapter:course_rec_v1"), [f"adapter:{FIRST}"]),
        (("show", "nothing"), []),
        (("show", "%"), []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_names_on_record(known: Fusery, complete: Complete, words: tuple[str, ...], names: list[str]) -> None:
    assert complete(*words) == [f"plain,{name}" for name in names]


def test_where_a_path_may_be_meant(known: Fusery, complete: Complete) -> None:
    assert complete("materialize", FIRST, "./o") == ["file,./o"]
    assert complete("sign", "course_rec_v1") == [f"plain,{FIRST}"]
    assert complete("sign", "./o") == ["file,./o"]


def test_the_home_that_is_named(known: Fusery, complete: Complete, tmp_path: Path) -> None:
    shutil.move(tmp_path / "home", tmp_path / "elsewhere")
    assert complete("show", "") == []
    assert f"plain,{FIRST}" in complete("--home", str(tmp_path / "elsewhere"), "show", "")


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
            assert place == "impact" or kinds_of(place, parameter), (place, parameter.name)


# ---------------------------------------------------------------- never in the way


@pytest.mark.parametrize(
    "spoil",
    [
        lambda home: None,
        lambda home: home.mkdir(),
        lambda home: home.write_text("a file"),
        lambda home: (home / "fusery.db").mkdir(parents=True),
        lambda home: (home.mkdir(), (home / "fusery.db").write_bytes(b"")),
        lambda home: (home.mkdir(), (home / "fusery.db").write_bytes(b"no database" * 500)),
        lambda home: (home.mkdir(), (home / "config.toml").write_text("not = [toml")),
        lambda home: (home.mkdir(), (home / "config.toml").write_text("user = 'ann'")),
    ],
    ids=["none", "empty", "file", "folder", "no-bytes", "rubbish", "bad-config", "config"],
)
def test_without_a_registry_there_are_no_names(
    fusery: Fusery, complete: Complete, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(tmp_path / "home")
    before = contents(tmp_path)
    assert complete("show", "") == complete("list", "--base", "") == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////nowhere/f.db", "postgresql://u:p@127.0.0.1:1/none", "://"]
)
def test_a_database_that_does_not_answer_has_none(
    known: Fusery, complete: Complete, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FUSERY_DATABASE_URL", url)
    began = time.monotonic()
    assert complete("show", "") == []
    assert time.monotonic() - began < 15


def test_nothing_is_written_and_what_others_have_just_written_is_seen(
    known: Fusery, complete: Complete, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    assert f"plain,{FIRST}" in complete("show", "")
    assert contents(tmp_path) == before
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as other:
        other.execute("INSERT INTO task (id, name) VALUES (99, 'fresh')")
        other.commit()
        assert (tmp_path / "home" / "fusery.db-wal").stat().st_size
        assert complete("history", "") == ["plain,course_rec", "plain,fresh"]
        other.execute("BEGIN IMMEDIATE")
        assert complete("history", "f") == ["plain,fresh"], "a writer is not waited for"


def test_of_many_the_newest_are_shown(known: Fusery, complete: Complete, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as other:
        other.executemany("INSERT INTO task (name) VALUES (?)", [(f"t{n:05}",) for n in range(5000)])
        other.commit()
    assert len(complete("history", "")) == 200
    assert complete("history", "t04999") == ["plain,t04999"]


def test_heavy_parts_are_not_imported(known: Fusery, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fusery.cli.main import run\n"
        "try:\n    run([])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'sqlalchemy', 'pydantic', 'mlx', 'numpy', 'psycopg'} & set(sys.modules)))"
    )
    environment = {
        **os.environ,
        "_FUSERY_COMPLETE": "bash_complete",
        "COMP_WORDS": "fusery show course_rec_v1",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"plain,{FIRST}", "[]"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_in_bash_itself(known: Fusery, tmp_path: Path) -> None:
    script = (
        'eval "$(fusery completion bash)"; COMP_WORDS=(fusery show course_rec_v); COMP_CWORD=2; '
        '_fusery_completion fusery; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [SECOND, FIRST]
