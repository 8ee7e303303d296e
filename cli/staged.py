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
    """Return the files of the commit, and those that it removes, by moving them elsewhere or else."""
    tracked = set(_names("ls-files"))
    return tracked, _names("diff", "--cached", "--name-only", "--no-renames", "--diff-filter=D", "--relative")


def committed(folders: Iterable[Path], tracked: set[Path]) -> list[Path]:
    """Return the adapters' folders that git has something of; it must have all: others would have half an adapter."""
    found, lacking = [], []
    for folder in folders:
        here = Path(os.path.relpath(folder))
        # To git, a link to a folder is a file.
        files = [] if here in tracked else [here / name for name in _FILES if os.path.lexists(here / name)]
        missing = [file for file in files if file not in tracked]
        if not files or len(missing) < len(files):
            found.append(folder)
            lacking += missing
    if lacking:
        names = shlex.join(map(str, lacking))
        raise CheckFailedError(
            f"git would leave out of the commit: {names}", hint=f"git add --force -- {names}"
        )
    return found


def _names(*words: str) -> list[Path]:
    """Return what a command of git lists below this folder."""
    # No lock is taken, and no program that the repository's configuration names is run.
    command = ["git", "-c", "core.fsmonitor=false", *words, "-z"]
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
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]
