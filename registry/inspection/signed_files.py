"""What lies at a path that somebody wants verified: every file of it, hidden ones too, and what is no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusery.storage.copying import pump, reading
from fusery.storage.errors import MissingFileError, StorageError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, Manifest

from .problem import Problem

DEEPEST = 64
"""Folders inside each other."""
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Found:
    """Files by path and digest.

    Attributes:
        path: what was looked at, without links on the way to it.
        lone: it is a single file, and `files` has it under its own name.
        files: path within it to what it is.
        problems: what is neither file nor folder, or cannot be read.
    """

    path: Path
    lone: bool
    files: dict[str, FileEntry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest | None:
        """The files as a manifest; None where something has no place in one."""
        if self.problems:
            return None
        try:
            return Manifest.of(self.files.values())
        except StorageError:
            return None


def look(path: Path, *, but: Path | None = None, progress: Progress | None = None) -> Found:
    """Hash every file of a folder, or a single file; no link is followed within it.

    Args:
        path: the folder or file.
        but: a file that is left out: the signature, where it lies inside.
        progress: called with the bytes done and the total.

    Raises:
        MissingFileError: there is neither a folder nor a file.
    """
    with os_failures(f"read {path}", near=path):
        real = path.resolve()
        if not real.is_dir() and not real.is_file():
            raise MissingFileError(
                f"{path} is neither a folder nor a file", hint="name a bundle or a file of one"
            )
        found = Found(real, lone=real.is_file())
        left_out = but.resolve() if but is not None else None
        names = [real.name] if found.lone else list(_names(real, "", found.problems, DEEPEST))
        wanted = [name for name in names if _place(found, name) != left_out]
        total, done = sum(_place(found, name).lstat().st_size for name in wanted), 0
        for name in sorted(wanted):
            entry = _hashed(found, name)
            if entry is not None:
                found.files[name] = entry
                done += entry.size
            if progress is not None:
                progress(done, total)
    return found


def _place(found: Found, name: str) -> Path:
    return found.path if found.lone else found.path / name


def _names(folder: Path, prefix: str, problems: list[Problem], deep: int) -> Iterator[str]:
    """Yield the paths of regular files below a folder, and note what is something else."""
    if deep == 0:
        problems.append(Problem("too_deep", prefix, f"{prefix[:100]}… lies deeper than {DEEPEST} folders"))
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            name = f"{prefix}{entry.name}"
            if entry.is_symlink():
                target = os.readlink(entry.path)
                problems.append(Problem("link", name, f"{name} is a symbolic link, to {target[:200]}"))
            elif entry.is_dir(follow_symlinks=False):
                yield from _names(Path(entry.path), f"{name}/", problems, deep - 1)
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                yield name
            else:
                problems.append(Problem("special", name, f"{name} is neither a file nor a folder"))


def _hashed(found: Found, name: str) -> FileEntry | None:
    place = _place(found, name)
    try:
        with reading(place) as source, os_failures(f"read {place}", near=place):
            digest, size = pump(source.fd, None)
    except StorageError as error:
        found.problems.append(Problem("unreadable", name, f"{name} cannot be read: {error.message}"))
        return None
    return FileEntry(name, size, digest)
