"""What a run took place in, in a repository that somebody else has made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fusery.registry.registration.training_record import RecordedGit, git_commit

pytestmark = pytest.mark.timing


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b.example", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / ".gitattributes").write_text("*.jsonl filter=x\n")
    (folder / "data.jsonl").write_text("{}\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    os.utime(folder / "data.jsonl", (1, 1))
    return folder


def test_the_commit_and_whether_files_differ(theirs: Path, tmp_path: Path) -> None:
    head = git(theirs, "rev-parse", "HEAD")
    assert git_commit(theirs) == RecordedGit(commit=head, dirty=False)
    (theirs / "new").write_text("not tracked\n")
    assert git_commit(theirs) == RecordedGit(commit=head, dirty=False)
    (theirs / "data.jsonl").write_text("{}\n{}\n")
    assert git_commit(theirs) == RecordedGit(commit=head, dirty=True)
    assert git_commit(tmp_path) is None


SETTINGS: dict[str, dict[str, str]] = {
    "clean": {"filter.x.clean": "touch {ran}; cat"},
    "process": {"filter.x.process": "touch {ran}; false", "filter.x.required": "true"},
    "a name with =": {"filter.x.clean": "touch {ran}; cat", "filter.a=b.clean": "cat"},
    "fsmonitor": {"core.fsmonitor": "touch {ran}; false"},
}
PLACES = ("its own", "included", "of a work tree", "the user's")


@pytest.mark.parametrize(
    ("name", "where"),
    [*((name, PLACES[0]) for name in SETTINGS), *(("clean", place) for place in PLACES[1:])],
)
def test_no_program_that_the_repository_names_is_run(
    theirs: Path, tmp_path: Path, name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "user"))
    options: tuple[str, ...] = ()
    if where == "included":
        git(theirs, "config", "include.path", "more")
        options = ("--file", str(theirs / ".git" / "more"))
    elif where == "of a work tree":
        git(theirs, "config", "extensions.worktreeConfig", "true")
        options = ("--worktree",)
    elif where == "the user's":  # of which git-lfs runs what a repository's configuration names
        options = ("--global",)
    for key, value in SETTINGS[name].items():
        git(theirs, "config", *options, key, value.format(ran=ran))
    found = git_commit(theirs)
    assert not ran.exists()
    assert found == RecordedGit(commit=git(theirs, "rev-parse", "HEAD"), dirty=name == "a name with =")
    os.utime(theirs / "data.jsonl", (1, 1))
    subprocess.run(["git", "-C", theirs, "status"], check=False, capture_output=True)
    assert ran.exists(), "git itself runs it"


def test_no_program_that_a_submodule_names_is_run(theirs: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(theirs), "inner")
    git(outer, "commit", "--quiet", "--message", "all")
    ran = tmp_path / "ran"
    git(outer / "inner", "config", "filter.x.clean", f"touch {ran}; cat")
    os.utime(outer / "inner" / "data.jsonl", (1, 1))
    assert git_commit(outer) == RecordedGit(commit=git(outer, "rev-parse", "HEAD"), dirty=False)
    assert not ran.exists()
