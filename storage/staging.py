"""Private copies of files that are to be stored, hashed while they are made: what is looked at then is what is stored.

A copy lies where the store can give it its name without copying it again, if the store is on this machine.  So does what comes
from another store to be looked at before it is stored here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from .copying import Source, copy_file, pump, reading, source_of
from .digest import Digest
from .errors import StoreUnavailableError
from .failures import os_failures
from .manifest import FileEntry, Manifest
from .probes import staged_name
from .publishing import sync_file


@dataclass(frozen=True, slots=True)
class Staged:
    """A private copy of a file, as long as its `Staging` lasts.

    Attributes:
        path: of the copy.
        size: bytes.
        sha256: digest of the copy's bytes.
        stamp: of the copy, when its bytes were hashed.
    """

    path: Path
    size: int
    sha256: Digest
    stamp: tuple[int, ...]

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield a file descriptor to read the copy by.

        Raises:
            StorageError: it was removed, or written to since it was hashed.
        """
        if not os.path.lexists(self.path):
            raise StoreUnavailableError(
                f"{self.path} was removed while it was needed", hint="run the command again"
            )
        with reading(self.path) as copy:
            replace(copy, stamp=self.stamp).require_unchanged()
            yield copy.fd

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
        self._sources: list[Source] = []

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
            with self._part() as (path, fd):
                digest, size = pump(source.fd, fd)
                source.require_unchanged()
                self._staged[path] = _staged(path, fd, size, digest)
            self._sources.append(source)
        return path

    @contextmanager
    def _part(self) -> Iterator[tuple[Path, int]]:
        """Give a new file, open; its name goes with all others'."""
        path = self._folder / staged_name()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._parts.callback(path.unlink, missing_ok=True)
        try:
            yield path, fd
        finally:
            os.close(fd)

    def receive(self, entry: FileEntry, place: Path, pour: Callable[[int], object]) -> None:
        """Write what comes from elsewhere to a copy; where the disk has links, no second one is made for `place`.

        Args:
            entry: its size and digest.
            place: a free name in a folder that nobody else enters: where it is looked at.
            pour: writes the bytes to a file descriptor, and raises unless they are those.

        Raises:
            OutOfSpaceError: there is no room for it.
        """
        with os_failures(f"write to {self._folder}", near=self._folder):
            self._room(entry.size)
            with self._part() as (path, fd):
                pour(fd)
                staged = _staged(path, fd, entry.size, entry.sha256)
        copy_file(path, place, link=True)
        self._staged[place] = staged

    def sources(self, files: Mapping[str, Path]) -> dict[str, Path | Staged]:
        """Return files by name, each as the copy that it is, if it is one; not if somebody removed that meanwhile."""
        known = {place: copy for place, copy in self._staged.items() if os.path.lexists(copy.path)}
        return {name: known.get(path, path) for name, path in files.items()}

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
        for source in self._sources:
            source.require_still_there()


def _staged(path: Path, fd: int, size: int, digest: Digest) -> Staged:
    # Who opens it again would not be told of a write that failed before, and some file systems date it only now.
    sync_file(fd)
    return Staged(path, size, digest, source_of(path, fd).stamp)


def manifest_of_staged(copies: Mapping[str, Staged]) -> Manifest:
    """Return the manifest of copies by name."""
    return Manifest.of(staged.entry(name) for name, staged in copies.items())
