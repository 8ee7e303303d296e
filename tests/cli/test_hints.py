"""Hints are commands that work where they are read: with the registry, the program and the installation that are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixture_types import Fusery
from installation import PROGRAM

from fusery.cli.hints import Hints, as_installed, program


def hint_of(said: str) -> str:
    """The command in the last line that has one."""
    line = next(line for line in reversed(said.splitlines()) if line.startswith(("Hint: ", "Next: ")))
    return line.partition(": ")[2]


def test_a_hint_names_the_home_that_was_given(fusery: Fusery, tmp_path: Path) -> None:
    home = tmp_path / "my home"
    ran = fusery("--registry", home, "list")
    assert (ran.code, hint_of(ran.err)) == (2, f"fusery --registry '{home}' base add MODEL")
    made = fusery("--registry", home, "admin", "init")
    assert (made.code, (home / "fusery.db").is_file()) == (0, True)
    assert hint_of(made.err) == f"fusery --registry '{home}' base add SOURCE"
    assert not (tmp_path / "home").exists()


def test_words_of_people_stay_as_they_are(stocked: Fusery) -> None:
    here = ("--registry", "home")
    stocked(*here, "edit", "course_rec@1", "--note", "made by fusery fuse, as fusery list says")
    assert "made by fusery fuse, as fusery list says" in stocked(*here, "show", "course_rec@1").out
    document = {"error": {"hint": "fusery admin init"}}
    assert Hints().in_document(document) == document
    assert Path(sys.argv[0]).stem != "fusery"  # the hints below must not start with this program's name


def test_a_hint_about_another_registry_does_not_name_this_home() -> None:
    hints = Hints()
    hints.registry = "here"
    assert hints.spelled("fusery audit, on the other registry") == "fusery audit, on the other registry"
    unlike = "fusery is not fusery-list, .fusery list"
    assert hints.spelled(unlike) == unlike
    quoted = """mkdir 'a fusery list $(x) fusery list'"'"'s fusery list b' && fusery list"""
    assert hints.spelled(quoted) == f"{quoted.removesuffix('fusery list')}fusery --registry here list"
    assert hints.spelled("it's fusery list isn't 'x'") == "it's fusery --registry here list isn't 'x'"
    assert hints.spelled("--debug shows where: fusery --debug train ...") == (
        "--debug shows where: fusery --registry here --debug train ..."
    )


def test_a_program_is_named_as_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fusery").touch(0o755)
    started = str(tmp_path / "here" / "fusery")
    monkeypatch.setattr(sys, "argv", [started])
    for path, typed in (("here", "fusery"), ("other", started), ("none", started)):
        monkeypatch.setenv("PATH", str(tmp_path / path))
        assert program() == typed


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("on_the_path", [True, False])
def test_a_hint_names_a_program_that_the_shell_finds(tmp_path: Path, on_the_path: bool) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fusery").symlink_to(PROGRAM)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin" if on_the_path else "/usr/bin:/bin"
    assert shutil.which("fusery", path="/usr/bin:/bin") is None
    environment = {**os.environ, "PATH": path, "FUSERY_REGISTRY": str(tmp_path / "home")}
    typed = "fusery" if on_the_path else "bin/fusery"

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    ran = shell(f"{typed} list")
    assert (ran.returncode, hint_of(ran.stderr)) == (2, f"{typed} base add MODEL")
    assert f"Try '{typed} show --help'" in shell(f"{typed} show").stderr


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({}, "'fusery[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {}}, "'FOLDER[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {"editable": True}}, "--editable 'FOLDER[mlx]'"),
        ({"url": "https://x.org/f.whl", "archive_info": {}}, "'fusery[mlx] @ https://x.org/f.whl'"),
        ({"url": "https://x.org/f", "vcs_info": {"vcs": "git"}}, "'fusery[mlx] @ git+https://x.org/f'"),
    ],
)
def test_it_comes_from_where_it_came_from(
    said: dict[str, object], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(said).replace("FOLDER", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    hint = as_installed("it needs more: pip install 'fusery[mlx]'")
    assert hint.startswith("it needs more: ")
    assert hint.endswith(f"pip install {source.replace('FOLDER', str(tmp_path))}")
    options = as_installed("pip install --force-reinstall --no-binary fusery fusery")
    assert " install --force-reinstall --no-binary fusery " in options


def test_other_instructions_are_left_alone() -> None:
    for text in ("pip install mlx-lm", "pip install fusery-tools", "fusery list"):
        assert as_installed(text) == text
