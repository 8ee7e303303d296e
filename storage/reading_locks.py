"""Locks on folders: who reads one shares it, and who wants to remove it must have it alone.

The lock is on the folder itself (flock(2)), so that nothing is left behind, a read-only cache can be locked, and the
system gives it back when a process ends in whatever way.  It spares a reader the surprise of files that vanish; what
is right does not depend on it: a file system without such locks lets everybody through.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_NO_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@contextmanager
def shared(folder: Path) -> Iterator[bool]:
    """Hold a folder so that nobody removes it until the block ends; yield whether it is there.

    Waits for a removal that is under way: a rename, and so next to nothing.
    """
    fd = _locked(folder, fcntl.LOCK_SH)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Hold a folder alone until the block ends; yield False if somebody reads it.

    What is not there, or is no folder, nobody reads.
    """
    free = True
    try:
        fd = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fd, free = None, False
    try:
        yield free
    finally:
        if fd is not None:
            os.close(fd)


def _locked(folder: Path, kind: int) -> int | None:
    """Return a locked descriptor of the folder that has the name now, None if there is none."""
    while True:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                return None
            raise
        try:
            _flock(fd, kind)
            now = os.stat(folder, follow_symlinks=False)
        except FileNotFoundError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        held = os.fstat(fd)
        if (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino):
            return fd
        # It was replaced while we waited: the lock is on something that has no name any more.
        os.close(fd)


def _flock(fd: int, kind: int) -> None:
    try:
        fcntl.flock(fd, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
