"""Bytes from one file to another, hashed on the way, as fast as the disk and two cores go."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .digest import CHUNK, Digest
from .errors import StorageError, StoreUnavailableError, UnsafePathError
from .failures import DigestMismatchError, os_failures
from .manifest import FileEntry
from .processes import temporary_name
from .publishing import link_exclusive, part_near, sync_file, write_all

DEPTH = 8
"""Chunks of `CHUNK` bytes that may wait to be hashed: the memory a copy takes."""

_FICLONE = 0x40049409  # linux/fs.h
_NOT_HERE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})


Progress = Callable[[int], None] | None
"""Called with the number of bytes done since the last call."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file that is open for reading."""

    path: Path
    fd: int
    size: int
    stamp: tuple[int, ...]

    def require_unchanged(self, file_status: os.stat_result | None = None) -> None:
        """Refuse a file that was written to since it was opened."""
        if _stamp(file_status or os.fstat(self.fd)) != self.stamp:
            raise StorageError(f"{self.path} changed while it was read", hint="run the command again")


def _stamp(file_status: os.stat_result) -> tuple[int, ...]:
    return file_status.st_dev, file_status.st_ino, file_status.st_size, file_status.st_mtime_ns


def source_of(path: Path, fd: int) -> OpenFile:
    """Return an open regular file as it is now."""
    file_status = os.fstat(fd)
    return OpenFile(path, fd, file_status.st_size, _stamp(file_status))


@contextmanager
def reading(path: Path) -> Iterator[OpenFile]:
    """Open a regular file for reading; what is a link, a pipe or a device now does not get in."""
    with os_failures(f"read {path}", near=path):
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsafePathError(f"{path} is not a regular file", hint="name a file")
        yield source_of(path, fd)
    finally:
        os.close(fd)


def pump(source: int, target: int | None, *, progress: Progress = None) -> tuple[Digest, int]:
    """Read and hash a file, the hash of a large one in a second thread, and write it to an empty file, or clone it there."""
    if target is not None and clone(source, target):
        source, target = target, None
    # Appended bytes are not read: a file that grows as fast as it is copied would never end.
    size = os.fstat(source).st_size - os.lseek(source, 0, os.SEEK_CUR)
    running, total = hashlib.sha256(), 0
    with ExitStack() as stack:
        depth, hashed = 1, deque[Any]()
        if target is not None and size > 2 * CHUNK:
            from concurrent.futures import ThreadPoolExecutor

            depth, hasher = DEPTH, stack.enter_context(ThreadPoolExecutor(1))
        buffers = [memoryview(bytearray(CHUNK)) for _ in range(depth)]
        for buffer in itertools.cycle(buffers):
            if len(hashed) == depth:
                hashed.popleft().result()
            if not (count := os.readv(source, [buffer[: size - total]])):
                break
            if depth > 1:
                hashed.append(hasher.submit(running.update, buffer[:count]))
            else:
                running.update(buffer[:count])
            if target is not None:
                write_all(target, buffer[:count])
            total += count
            if progress:
                progress(count)
    return Digest(running.hexdigest()), total


def clone(source: int, target: int) -> bool:
    """Make an empty file share the source's blocks on disk (Btrfs, XFS); return whether that worked."""
    if sys.platform != "linux" or os.lseek(source, 0, os.SEEK_CUR) != 0:
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_HERE | {errno.ENOTTY, errno.ETXTBSY}:
            return False
        raise
    return True


def copy_file(source: Path, destination: Path, *, link: bool = False, expected: Digest | None = None) -> bool:
    """Copy a file whose copy must have the digest `expected`, or make a hard `link` if possible; return whether it is a link."""
    with reading(source) as opened, os_failures(f"copy {source} to {destination}", near=destination.parent):
        try:
            if link and _linked(opened, destination, expected):
                return True
            with part_near(destination) as (part, fd):
                digest, _ = pump(opened.fd, fd)
                _require(opened.path, expected, digest)
                opened.require_unchanged()
                link_exclusive(part, destination)
        except FileExistsError as error:
            raise StorageError(f"{destination} exists already", hint="choose another place") from error
    return False


def _linked(source: OpenFile, destination: Path, expected: Digest | None) -> bool:
    if expected is not None:
        _require(source.path, expected, pump(source.fd, None)[0])
        os.lseek(source.fd, 0, os.SEEK_SET)
    try:
        os.link(source.path, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOT_HERE | {errno.EMLINK}:
            return False
        raise
    try:
        # The name may have been given to another file since this one was opened.
        source.require_unchanged(destination.lstat())
    except BaseException:
        destination.unlink()
        raise
    return True


def _require(path: Path, expected: Digest | None, got: Digest) -> None:
    if expected is not None and got != expected:
        raise DigestMismatchError(str(path), expected, expected, got, hint="run: fusery audit")


@dataclass(frozen=True, slots=True)
class Staged:
    """A private copy of a file, as long as its `Staging` lasts; the stamp is that of the bytes that were hashed."""

    path: Path
    size: int
    sha256: Digest
    stamp: tuple[int, ...]

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield a file descriptor to read the copy by."""
        if not os.path.lexists(self.path):
            raise StoreUnavailableError(f"{self.path} was removed", hint="run the command again")
        with reading(self.path) as copy:
            replace(copy, stamp=self.stamp).require_unchanged()
            yield copy.fd

    def entry(self, path: str) -> FileEntry:
        """Return the manifest's entry for it, under a path within the artifact."""
        return FileEntry(path, self.size, self.sha256)


class Staging(ExitStack):
    """Private copies that go away when the `with` block ends."""

    def __init__(self, folder: Path, room: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self._folder, self._room = folder, room
        self._staged: dict[Path, Staged] = {}
        self._sources: list[OpenFile] = []

    def take(self, file: Path) -> Path:
        """Copy a file, hashing what is written; return the copy's path."""
        path = self._folder / temporary_name()
        with reading(file) as source, os_failures(f"copy {file} to {self._folder}", near=self._folder):
            self._room(source.size)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self.callback(path.unlink, missing_ok=True)
            with os.fdopen(fd, "r+b", buffering=0):
                digest, size = pump(source.fd, fd)
                source.require_unchanged()
                # A later open would not report a write that failed, and some file systems date it only now.
                sync_file(fd)
                self._staged[path] = Staged(path, size, digest, source_of(path, fd).stamp)
            self._sources.append(source)
        return path

    def copies(self, files: Mapping[str, Path]) -> dict[str, Staged]:
        """Return the copies of files by name; what is no copy yet is taken."""
        taken = {name: path if path in self._staged else self.take(path) for name, path in files.items()}
        return {name: self._staged[path] for name, path in taken.items()}

    def require_unchanged(self) -> None:
        """Refuse files whose names now belong to nothing, to other files, or to other bytes than were copied."""
        for source in self._sources:
            try:
                file_status = source.path.lstat()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StorageError(f"{source.path} was removed while it was read") from error
            source.require_unchanged(file_status)
