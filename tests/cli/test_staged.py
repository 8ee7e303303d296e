"""`fusery check --staged`: what git is about to commit.  The hook itself is run in `tests/forge`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fixture_types import Fusery
from forge_steps import git

STAGED = ("check", "--changed", "--staged")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with half an adapter: enough to look for, and never checked."""
    git(tmp_path, "init", "-q")
    (tmp_path / "a b").mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        (tmp_path / "a b" / name).touch()
    return tmp_path


def test_what_git_has_nothing_of_is_not_committed(fusery: Fusery, repository: Path) -> None:
    assert fusery(*STAGED, "a b/README.md").code == 0


def test_what_git_leaves_out_is_named(
    fusery: Fusery, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "add", "a b/adapter_config.json")
    done = fusery(*STAGED, "a b/adapter_config.json")
    assert done.code == 1
    assert "git would leave out of the commit: 'a b/adapters.safetensors'" in done.err
    assert "Hint: git add --force -- 'a b/adapters.safetensors'" in done.err
    # Names are those that git has here, wherever here is.
    monkeypatch.chdir(repository / "a b")
    assert "git add --force -- adapters.safetensors" in fusery(*STAGED, "adapter_config.json").err
    assert "git add --force -- adapters.safetensors" in fusery(*STAGED, Path.cwd() / "x").err


def test_it_goes_with_changed(fusery: Fusery) -> None:
    assert "go with --changed" in fusery("check", "--staged", "x").err


def test_without_a_repository_git_says_so(fusery: Fusery) -> None:
    done = fusery(*STAGED)
    assert (done.code, "git does not say what is staged: fatal: not a git repository" in done.err) == (
        2,
        True,
    )


def test_without_git_it_is_said(fusery: Fusery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    done = fusery(*STAGED)
    assert (done.code, f"git cannot be run: {os.strerror(2)}" in done.err) == (2, True)


def test_a_link_needs_what_it_leads_to(fusery: Fusery, repository: Path) -> None:
    folder = repository / "a b"
    (folder / "data").mkdir()
    (folder / "adapters.safetensors").rename(folder / "data" / "adapters.safetensors")
    (folder / "adapters.safetensors").symlink_to("data/adapters.safetensors")
    (repository / ".gitignore").write_text("data\n")
    git(repository, "add", ".")
    done = fusery(*STAGED, "a b/adapter_config.json")
    assert (done.code, "out of the commit: 'a b/data/adapters.safetensors'" in done.err) == (1, True), (
        done.err
    )


def test_a_link_to_a_folder_that_git_ignores(fusery: Fusery, repository: Path) -> None:
    (repository / "store").mkdir()
    (repository / "a b").rename(repository / "store" / "z")
    (repository / "z").symlink_to("store/z")
    (repository / ".gitignore").write_text("store\n")
    git(repository, "add", ".")
    done = fusery(*STAGED, "z")
    assert (done.code, "store/z/adapters.safetensors" in done.err) == (1, True), done.err


def test_what_is_only_intended_to_be_added_is_not_committed(fusery: Fusery, repository: Path) -> None:
    git(repository, "add", "a b/adapter_config.json")
    git(repository, "add", "--intent-to-add", "a b/adapters.safetensors")
    done = fusery(*STAGED, "a b/adapter_config.json")
    assert (done.code, "out of the commit: 'a b/adapters.safetensors'" in done.err) == (1, True), done.err


def test_names_from_beside_the_folder(
    fusery: Fusery, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git(repository, "add", "a b/adapter_config.json")
    (repository / "sub").mkdir()
    monkeypatch.chdir(repository / "sub")
    (tmp_path / "link").symlink_to(repository)
    for name in ("../a b/adapter_config.json", tmp_path / "link" / "a b" / "adapter_config.json"):
        assert "out of the commit: '../a b/adapters.safetensors'" in fusery(*STAGED, name).err
