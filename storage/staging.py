"""Private copies of files that are to be stored, hashed while they are made: what is looked at then is what is stored.

A copy lies where the store can give it its name without copying it again, if the store is on this machine.  So does what comes
from another store to be looked at before it is stored here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .copying import Source, copy_file, pump, reading, source_of
from .digest import Digest
from .failures import os_failures
from .manifest import FileEntry, Manifest
from .probes import staged_name
from .publishing import new_part

MOST = 64
"""Files of other stores that are open at a time: some systems let a process open 256."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A private copy of a file, as long as its `Staging` lasts.

    Attributes:
        path: of the copy.
        fd: file descriptor of the copy.
        size: bytes.
        sha256: digest of the copy's bytes.
        source: the file it was made of, as it was then.
    """

    path: Path
    fd: int
    size: int
    sha256: Digest
    source: Source

    def entry(self, path: str) -> FileEntry:
        """Return the manifest's entry for it, under a path within the artifact."""
        return FileEntry(path, self.size, self.sha256)


class Staging:
    """Private copies that go away when the `with` block ends."""

    def __init__(self, folder: Path, room: Callable[[int], object] = lambda _: None) -> None:
        """Prepare; nothing is copied yet.

        Args:
            folder: where copies are to lie: `BlobStore.staging_folder`, or another on a disk with room.
            room: told the size of each file before it is copied, to raise where there is no room for it.
        """
        self._folder = folder
        self._room = room
        self._parts = ExitStack()
        self._staged: dict[Path, Staged] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def take(self, file: Path) -> Path:
        """Copy a file, hashing what is written; return the copy's path.

        Raises:
            UnsafePathError: it is not a regular file.
            MissingFileError: there is no such file.
            OutOfSpaceError: there is no room for it.
            StorageError: it changed while it was read.
        """
        with reading(file) as source, os_failures(f"copy {file} to {self._folder}", near=self._folder):
            self._room(source.size)
            part = new_part(self._folder / staged_name(), 0o600)
            path, fd = self._parts.enter_context(part)
            digest, size = pump(source.fd, fd)
            source.require_unchanged()
        self._staged[path] = Staged(path, fd, size, digest, source)
        return path

    def receive(self, entry: FileEntry, place: Path, pour: Callable[[int], object]) -> bool:
        """Write what comes from elsewhere to a copy; where the disk has links, no second one is made for `place`.

        Args:
            entry: its size and digest.
            place: a free name in a folder that nobody else enters: where it is looked at.
            pour: writes the bytes to a file descriptor, and raises unless they are those.

        Returns:
            Whether it was done; False where too many files are open.

        Raises:
            OutOfSpaceError: there is no room for it.
        """
        if len(self._staged) >= MOST:
            return False
        with os_failures(f"write {place}", near=self._folder):
            self._room(entry.size)
            path, fd = self._parts.enter_context(new_part(self._folder / staged_name(), 0o600))
            pour(fd)
            source = source_of(path, fd)
            copy_file(path, place, link=True)
        self._staged[place] = Staged(path, fd, entry.size, entry.sha256, source)
        return True

    def sources(self, files: Mapping[str, Path]) -> dict[str, Path | Staged]:
        """Return files by name, each as the copy that it is, if it is one."""
        return {name: self._staged.get(path, path) for name, path in files.items()}

    def copies(self, files: Mapping[str, Path]) -> dict[str, Staged]:
        """Return the copies of files by name; what is no copy yet is taken."""
        return {
            name: self._staged[path if path in self._staged else self.take(path)]
            for name, path in files.items()
        }

    def require_unchanged(self) -> None:
        """Refuse files that are no longer what they were when they were copied.

        Raises:
            StorageError: one was written to since, replaced or removed.
        """
        for staged in self._staged.values():
            staged.source.require_still_there()


def manifest_of_staged(copies: Mapping[str, Staged]) -> Manifest:
    """Return the manifest of copies by name."""
    return Manifest.of(staged.entry(name) for name, staged in copies.items())
