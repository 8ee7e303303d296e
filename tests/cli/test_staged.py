"""`fusery check --staged`: what git is about to commit.  The hook itself is run in `tests/forge`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fixture_types import Fusery
from forge_steps import git

from .conftest import require_refusals

STAGED = ("check", "--changed", "--staged")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with an incomplete adapter: it is found, and not checked."""
    git(tmp_path, "init", "-q")
    (tmp_path / "a b").mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        (tmp_path / "a b" / name).touch()
    return tmp_path


def left_out(fusery: Fusery, name: str | Path) -> tuple[int, str]:
    """Return the exit code of a check, and the file that git would leave out of the commit."""
    done = fusery(*STAGED, name)
    return done.code, done.err.partition("out of the commit: ")[2].splitlines()[0].strip("'")


@pytest.mark.timing
def test_files_that_git_leaves_out_are_named(
    fusery: Fusery, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fusery(*STAGED, "a b/README.md").code == 0, "git has nothing of it"
    git(repository, "add", "a b/adapter_config.json")
    done = fusery(*STAGED, "a b/adapter_config.json")
    assert (done.code, "git add --force -- 'a b/adapters.safetensors'" in done.err) == (1, True)
    # File names in hints are relative to the current folder.
    monkeypatch.chdir(repository / "a b")
    assert "git add --force -- adapters.safetensors" in fusery(*STAGED, "adapter_config.json").err
    assert "git add --force -- adapters.safetensors" in fusery(*STAGED, Path.cwd() / "x").err
    (repository / "sub").mkdir()
    monkeypatch.chdir(repository / "sub")
    (repository / "link").symlink_to(repository)
    for name in ("../a b/adapter_config.json", repository / "link" / "a b" / "adapter_config.json"):
        assert left_out(fusery, name) == (1, "../a b/adapters.safetensors")
    monkeypatch.chdir(repository)
    git(repository, "add", "--intent-to-add", "a b/adapters.safetensors")
    assert left_out(fusery, "a b/adapter_config.json") == (1, "a b/adapters.safetensors")


@pytest.mark.timing
def test_a_link_needs_what_it_leads_to(fusery: Fusery, repository: Path) -> None:
    folder = repository / "a b"
    (folder / "data").mkdir()
    (folder / "adapters.safetensors").rename(folder / "data" / "adapters.safetensors")
    (folder / "adapters.safetensors").symlink_to("data/adapters.safetensors")
    (repository / ".gitignore").write_text("data\nstore\n")
    git(repository, "add", ".")
    assert left_out(fusery, "a b/adapter_config.json") == (1, "a b/data/adapters.safetensors")
    (repository / "store").mkdir()
    shutil.copytree(folder / "data", repository / "store" / "z")
    (repository / "store" / "z" / "adapter_config.json").touch()
    (repository / "z").symlink_to("store/z")
    git(repository, "add", ".")
    done = fusery(*STAGED, "z")
    assert (done.code, "store/z/adapters.safetensors" in done.err) == (1, True), done.err


def test_refusals(fusery: Fusery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_refusals(fusery, ("check --staged x", "--changed"), (STAGED, "not a git repository"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    require_refusals(fusery, (STAGED, os.strerror(2)))
