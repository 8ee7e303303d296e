"""Bytes from one file to another, hashed on the way, as fast as the disk and two cores go."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .digest import CHUNK, Digest
from .errors import StorageError, UnsafePathError
from .failures import DigestMismatchError, os_failures
from .publishing import link_exclusive, part_beside, write_all

DEPTH = 8
"""Chunks of `CHUNK` bytes that may wait to be hashed: the memory a copy takes."""

SYNC_EVERY = 64 << 20
"""Bytes after which the disk is set to work, so that the last fsync finds little left to do."""

_PIECE = 8 << 20
"""Bytes copied by one system call; what was copied is hashed meanwhile."""

_FICLONE = 0x40049409  # linux/fs.h
_NOT_HERE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})


Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


class Method(Enum):
    """How a copy came about."""

    LINK = "link"
    REFLINK = "reflink"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file that is open for reading.

    Attributes:
        path: the name it was opened by.
        fd: its file descriptor; all reading goes through it.
        size: bytes when it was opened.
        stamp: what changes when the file does.
    """

    path: Path
    fd: int
    size: int
    stamp: tuple[int, ...]

    def require_unchanged(self, found: os.stat_result | None = None) -> None:
        """Refuse a file that was written to since it was opened.

        Args:
            found: what has its name now; None for the open file itself.

        Raises:
            StorageError: it was.
        """
        if _stamp(found or os.fstat(self.fd)) != self.stamp:
            raise StorageError(
                f"{self.path} changed while it was read", hint="run the command again when it is complete"
            )

    def require_still_there(self) -> None:
        """Refuse a file whose name now belongs to nothing, to another file, or to other bytes.

        Raises:
            StorageError: it does.
        """
        try:
            found = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(
                f"{self.path} was removed while it was read", hint="run the command again when it is complete"
            ) from error
        self.require_unchanged(found)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def source_of(path: Path, fd: int) -> Source:
    """Return an open regular file as it is now."""
    found = os.fstat(fd)
    return Source(path, fd, found.st_size, _stamp(found))


@contextmanager
def reading(path: Path) -> Iterator[Source]:
    """Open a regular file for reading; what is a link, a pipe or a device now does not get in.

    Raises:
        UnsafePathError: it is not a regular file.
        MissingFileError: there is no such file.
        StoreDeniedError: it may not be read.
    """
    with os_failures(f"read {path}", near=path):
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsafePathError(
                f"{path} is not a regular file", hint="name a file, not a folder or a device"
            )
        yield source_of(path, fd)
    finally:
        os.close(fd)


def pump(source: int, target: int | None, *, progress: Progress | None = None) -> tuple[Digest, int]:
    """Read a file to its end, hash it, and write what was read to another.

    Where the file system can, the target becomes a clone of the source first and only the clone is read: what is
    hashed is what was written in either case.

    Args:
        source: file descriptor to read from, from its current position.
        target: file descriptor of an empty file, open for reading and writing; None only to hash.
        progress: called with the number of bytes of each piece that is done.

    Returns:
        Digest and number of the bytes.

    Raises:
        OSError: a read, a write or an early fsync failed.
    """
    if target is not None and clone(source, target):
        source, target = target, None
    # What is appended meanwhile is not read: a file that grows as fast as it is copied would never end.
    size = os.fstat(source).st_size - os.lseek(source, 0, os.SEEK_CUR)
    if target is None or size <= 2 * CHUNK:
        return _pump_plainly(source, target, size, progress)
    return _pump_in_threads(source, target, size, progress)


def _pump_plainly(
    source: int, target: int | None, size: int, progress: Progress | None
) -> tuple[Digest, int]:
    running, total = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    while count := os.readv(source, [buffer[: size - total]]):
        running.update(buffer[:count])
        if target is not None:
            write_all(target, buffer[:count])
        total += count
        if progress:
            progress(count)
    return Digest(running.hexdigest()), total


def _pump_in_threads(source: int, target: int, size: int, progress: Progress | None) -> tuple[Digest, int]:
    """Hash in a second thread and flush in a third: both release the interpreter's lock."""
    from concurrent.futures import Future, ThreadPoolExecutor

    running, total = hashlib.sha256(), 0
    buffers = [memoryview(bytearray(CHUNK)) for _ in range(DEPTH)]
    hashed: list[Future[None] | None] = [None] * DEPTH
    with ThreadPoolExecutor(1) as hasher, flushing(target) as written:
        for turn in itertools.cycle(range(DEPTH)):
            before = hashed[turn]
            if before is not None:
                before.result()
            count = os.readv(source, [buffers[turn][: size - total]])
            if not count:
                break
            piece = buffers[turn][:count]
            hashed[turn] = hasher.submit(running.update, piece)
            write_all(target, piece)
            written(count)
            total += count
            if progress:
                progress(count)
        for waiting in hashed:
            if waiting is not None:
                waiting.result()
    return Digest(running.hexdigest()), total


@contextmanager
def flushing(fd: int) -> Iterator[Callable[[int], None]]:
    """Set the disk to work while a file is written; yield what to tell how many bytes were.

    It makes nothing durable: the one fsync at the end does, and finds little left to do.

    Raises:
        OSError: an early fsync failed; the file must be written anew.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    unsynced = 0
    flush: Future[None] | None = None
    with ThreadPoolExecutor(1) as flusher:

        def written(count: int) -> None:
            nonlocal unsynced, flush
            unsynced += count
            if unsynced >= SYNC_EVERY and (flush is None or flush.done()):
                if flush is not None:
                    flush.result()
                flush, unsynced = flusher.submit(_start_flush, fd), 0

        yield written
        if flush is not None:
            flush.result()


def _start_flush(fd: int) -> None:
    # macOS has no fdatasync, and F_FULLFSYNC is too dear to be done early.
    getattr(os, "fdatasync", os.fsync)(fd)


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


def copy_file(
    source: Path,
    destination: Path,
    *,
    link: bool = False,
    expected: Digest | None = None,
) -> Method:
    """Copy a file to a name that must be free; it appears there whole or not at all.

    Args:
        source: a regular file.
        destination: the copy's name, in a folder that exists.
        link: share the file itself (a hard link) where the disk allows it, so that an edit of one changes the other.
        expected: the digest that the copied bytes must have: those of the copy are hashed, not the source's.

    Returns:
        How it was done.

    Raises:
        DigestMismatchError: the bytes are not those of `expected`.
        StorageError: the destination exists.
        UnsafePathError: the source is not a regular file.
        OutOfSpaceError: there is no room.
    """
    with reading(source) as opened, os_failures(f"copy {source} to {destination}", near=destination.parent):
        try:
            if link and _linked(opened, destination, expected):
                return Method.LINK
            with part_beside(destination) as (part, fd):
                method = _fill(opened, fd, expected)
                opened.require_unchanged()
                link_exclusive(part, destination)
        except FileExistsError as error:
            raise StorageError(f"{destination} exists already", hint="choose another place") from error
    return method


def _fill(source: Source, target: int, expected: Digest | None) -> Method:
    if clone(source.fd, target):
        if expected is not None:
            _require(source.path, expected, pump(target, None)[0])
        return Method.REFLINK
    if expected is None:
        _copy_plainly(source, target)
    else:
        _require(source.path, expected, _copy_and_hash(source, target))
    return Method.COPY


def _copy_and_hash(source: Source, target: int) -> Digest:
    """Let the system copy, and hash what it wrote behind it: the source may be written to meanwhile, unseen."""
    from concurrent.futures import Future, ThreadPoolExecutor

    running, done = hashlib.sha256(), 0

    def hash_up_to(end: int) -> None:
        nonlocal done
        while done < end and (piece := os.pread(target, min(CHUNK, end - done), done)):
            running.update(piece)
            done += len(piece)

    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as hasher:
        _copy_plainly(source, target, lambda end: waiting.append(hasher.submit(hash_up_to, end)))
        for each in waiting:
            each.result()
    return Digest(running.hexdigest())


def _copy_plainly(source: Source, target: int, told: Callable[[int], object] = lambda _: None) -> None:
    """Copy, and tell after each piece how many bytes there are now."""
    done = 0
    while sys.platform == "linux" and done < source.size:
        try:
            count = os.copy_file_range(source.fd, target, min(_PIECE, source.size - done))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            break
        if count == 0:
            break
        done += count
        told(done)
    # Both offsets stand behind what was copied so far: this is the rest, or all of it.
    while chunk := os.read(source.fd, min(CHUNK, source.size - done)):
        write_all(target, chunk)
        done += len(chunk)
        told(done)


def _linked(source: Source, destination: Path, expected: Digest | None) -> bool:
    if expected is not None:
        digest, _ = pump(source.fd, None)
        os.lseek(source.fd, 0, os.SEEK_SET)
        _require(source.path, expected, digest)
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


def _require(path: Path, expected: Digest, got: Digest) -> None:
    if got != expected:
        raise DigestMismatchError(str(path), expected, expected, got, hint="run: fusery audit")
