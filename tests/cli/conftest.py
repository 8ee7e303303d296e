"""The command line as a function: words in, exit code and both streams out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import tiny_models

from fusery.cli.main import cli, run

MAIN = "from fusery.cli.start import start; start()"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as one JSON document."""
        return json.loads(self.out)


Fusery = Callable[..., Ran]


def every_command(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Yield each command that is no group, by its words."""
    context = click.Context(group, info_name="fusery")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def require_refusals(fusery: Fusery, *cases: tuple[str | tuple[str | Path, ...], str]) -> None:
    """Require that each command is refused with one error, which has a given code or names a given thing."""
    for words, named in cases:
        split = words.split() if isinstance(words, str) else words
        ran = fusery(*split)
        assert (ran.code, ran.out, "Traceback" in ran.err) == (2, "", False), (words, ran)
        error = fusery(*split, "--json").json["error"]
        told = f"{error['message']}\n{error['hint']}"
        assert named == error["code"] or named in told, (words, error)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of everything in a folder."""
    found = {str(path): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items()}


def started(
    *words: str | Path, cwd: Path | None = None, main: str = MAIN, **environment: str
) -> subprocess.Popen[str]:
    """Start `fusery WORDS…` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", main, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "MLX_DISABLE_COMPILE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def fusery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fusery:
    """Run `fusery WORDS…` in a home of its own."""
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.setenv("FUSERY_USER", "tester")
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Ran:
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random llama; not to be changed."""
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def stocked_home(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the home of a registry with two adapters, and the folders that they came from; to be copied."""
    folder = tmp_path_factory.mktemp("stocked")
    first = tiny_models.make_adapter(folder / "first", tiny_base, seed=1)
    second = tiny_models.make_adapter(folder / "second", tiny_base, seed=2, rank=4)
    words = ("--base", "tiny", "--task", "course_rec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSERY_REGISTRY", str(folder / "home"))
        patch.setenv("FUSERY_USER", "tester")
        assert run(["base", "add", str(tiny_base), "--name", "tiny", "-q"]) == 0
        assert run(["register", str(first), *words, "--date", "20260115", "--val-loss", "0.61", "-q"]) == 0
        assert run(["register", str(second), *words, "--date", "20260201", "--val-loss", "0.42", "-q"]) == 0
    return folder


@pytest.fixture
def stocked(fusery: Fusery, stocked_home: Path, tmp_path: Path) -> Fusery:
    """The command line on a registry with the base `tiny` and two versions of `course_rec`."""
    shutil.copytree(stocked_home, tmp_path, dirs_exist_ok=True)
    return fusery
