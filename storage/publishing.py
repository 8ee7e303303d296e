"""Files and folders that appear whole or not at all: written beside their place, made durable, then given their name."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .errors import StorageError
from .failures import os_failures

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # macOS sys/stdio.h


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, however many system calls it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_file(fd: int) -> None:
    """Wait until a file's bytes are on the disk; after a failure Linux drops them, and a second call would succeed."""
    if sys.platform == "darwin":
        # fsync on macOS stops at the drive's own cache (fsync(2)).
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(path: Path) -> None:
    """Make a folder and its parents, each durable before anything is put into it."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def new_part(path: Path, mode: int = 0o666) -> Iterator[tuple[Path, int]]:
    """Create a file, and yield path and descriptor for the body to link or rename; then remove that name."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield path, fd
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def open_locked(path: Path, flags: int = 0) -> int | None:
    """Open and lock a part file; return its descriptor, None if another process has it."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(path.lstat(), os.fstat(fd)):
            return fd
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def open_as_folder(fd: int, mode: int, folder: Path) -> None:
    """Give a file a mode, without the rights that its folder denies: many who write there have many umasks."""
    os.fchmod(fd, mode & folder.stat().st_mode)


def part_near(destination: Path, mode: int = 0o666) -> AbstractContextManager[tuple[Path, int]]:
    """Return `new_part` under a fresh name in the folder of `destination`, so that a rename stays on one disk."""
    return new_part(destination.parent / f".{uuid.uuid4().hex}.part", mode)


def link_exclusive(part: Path, final: Path) -> None:
    """Give a finished file its final name, which must be free, by a link; on exFAT by a look and a rename."""
    try:
        os.link(part, final)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        part.rename(final)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a small file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    with os_failures(f"write {path}", near=path.parent), part_near(path, mode) as (part, fd):
        write_all(fd, data)
        sync_file(fd)
        part.replace(path)
        sync_folder(path.parent)


def publish_folder(temp: Path, destination: Path, *, replace: bool = False) -> Path:
    """Give a finished folder its final name, in one step; with `replace`, what has that name is removed afterwards."""
    taken = StorageError(f"{destination} exists already", hint="choose another place, or --force")
    with os_failures(f"write {destination}", near=destination.parent):
        if os.path.lexists(destination):
            if not replace:
                raise taken
            if not _exchange(temp, destination):
                old = destination.parent / f".{uuid.uuid4().hex}.old"
                destination.rename(old)
                try:
                    temp.rename(destination)
                except OSError:
                    old.rename(destination)
                    raise
                old.rename(temp)
            remove_tree(temp)  # it now holds what was replaced
        else:
            try:
                temp.rename(destination)
            except OSError as error:
                is_taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
                if is_taken and os.path.lexists(destination):
                    raise taken from error
                raise
        sync_folder(destination.parent)
    return destination


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; what is gone already is fine."""

    def raise_unless_gone(_call: object, _path: str, problem: tuple[type, BaseException, object]) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            raise problem[1]

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=raise_unless_gone)
    else:
        path.unlink(missing_ok=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False if the system cannot."""
    import ctypes

    libc, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(first), os.fsencode(second))
    if sys.platform == "darwin":
        call, arguments = getattr(libc, "renamex_np", None), (*names, _RENAME_SWAP)
    else:
        call = getattr(libc, "renameat2", None)
        arguments = (_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    if call is None:
        return False
    if call(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))
