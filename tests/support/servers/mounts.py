"""Real file systems for tests: a small one, and one that may only be read.  Both need the right to mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


def _mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount an empty file system of so many bytes on a new folder, for as long as the block lasts."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def read_only(folder: Path) -> AbstractContextManager[Path]:
    """Let a folder be read only, whoever asks, for as long as the block lasts."""
    return mounted_read_only(folder, folder)


@contextmanager
def mounted_read_only(folder: Path, there: Path) -> Iterator[Path]:
    """Let a folder have another name by which it may only be read, for as long as the block lasts."""
    _mount("--bind", folder, there)
    try:
        _mount("-o", "remount,bind,ro", there)
        yield there
    finally:
        subprocess.run(["umount", "-l", str(there)], check=True)


def leave_free(disk: Path, size: int) -> None:
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    system = os.statvfs(disk)
    blocks = system.f_bavail - size // system.f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, blocks * system.f_frsize)
    assert os.statvfs(disk).f_bavail == size // system.f_frsize
