"""What git is about to commit, for a hook that is told only of files that are there."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from fusery.registry.adapters.files import CONFIG, METADATA, PEFT_WEIGHTS, WEIGHTS
from fusery.registry.errors import BadInputError, CheckFailedError

_FILES = (CONFIG, WEIGHTS, PEFT_WEIGHTS, METADATA)


def tracked_and_removed() -> tuple[set[Path], list[Path]]:
    """Return the files of the commit, wherever in the repository, and those that it removes, by moving them elsewhere or else.

    The former are absolute, without links on the way to the repository.
    """
    [top] = _names("rev-parse", "--show-toplevel", end="\n")
    root = Path(os.path.realpath(top))
    listed = set(_names("ls-files", "--full-name", ":/"))
    # Of what is only intended to be added, nothing is committed.
    listed -= set(_names("diff", "--name-only", "--no-renames", "--diff-filter=A"))
    removed = _names("diff", "--cached", "--name-only", "--no-renames", "--diff-filter=D")
    return {root / name for name in listed}, [Path(os.path.relpath(root / name)) for name in removed]


def committed(folders: Iterable[Path], tracked: set[Path]) -> list[Path]:
    """Return the adapters' folders that git has something of; it must have all: others would have half an adapter."""
    found, lacking = [], []
    seen = set()
    for folder in folders:
        there = Path(os.path.realpath(folder))
        if there in seen:
            continue
        seen.add(there)
        files = {place for name in _FILES for place in _with_target(there / name)}
        missing = {place for place in files if place not in tracked}
        # To git, a link to a folder is a file.
        if len(missing) < len(files) or _itself(folder) in tracked:
            found.append(folder)
            lacking += [Path(os.path.relpath(place)) for place in sorted(missing)]
    if lacking:
        names = shlex.join(map(str, lacking))
        raise CheckFailedError(
            f"git would leave out of the commit: {names}", hint=f"git add --force -- {names}"
        )
    return found


def _itself(path: Path) -> Path:
    """Return a path without links on the way to it; it may be one."""
    return Path(os.path.realpath(path.parent)) / path.name


def _with_target(path: Path) -> list[Path]:
    """Return a file that is there, and where it leads to if it is a link to another in its folder or below."""
    if not os.path.lexists(path):
        return []
    target = Path(os.path.realpath(path))
    # What leads out of the folder, or nowhere, is for the check to refuse.
    inside = target != path and target.is_relative_to(path.parent) and target.exists()
    return [path, target] if inside else [path]


def _names(*words: str, end: str = "\0") -> list[Path]:
    """Return what a command of git lists."""
    # No lock is taken, and no program that the repository's configuration names is run.
    command = ["git", "-c", "core.fsmonitor=false", *words, *(["-z"] if end == "\0" else [])]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise BadInputError(f"git cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise BadInputError(f"git does not say what is staged: {os.fsdecode(done.stderr).strip()}")
    return [
        Path(os.fsdecode(name)) for name in done.stdout.removesuffix(end.encode()).split(end.encode()) if name
    ]
