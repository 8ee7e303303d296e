"""Folders of one user's own, for what is believed later on: notes that anybody else could write are none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StoreDeniedError
from .failures import os_failures
from .publishing import make_folders
from .shell import typed

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def private_folder(folder: Path, *, make: bool = False) -> Iterator[int]:
    """Yield the descriptor of a folder that only this user can write, for reading what is in it.

    What is read through the descriptor was written by this user, whatever happens to the folder's name meanwhile.

    Args:
        folder: the folder.
        make: make it if it is not there, so that nobody else sees what is in it.

    Raises:
        StoreDeniedError: it belongs to somebody else, or others may write to it.
        MissingFileError: it is not there.
        UnsafePathError: it is a symbolic link.
    """
    with os_failures(f"read {folder}", near=folder):
        if make and not os.path.lexists(folder):
            make_folders(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_ours(os.fstat(fd)):
            raise StoreDeniedError(
                f"what is in {folder} may have been written by somebody else",
                hint=f"remove it: it is made again, for you alone (rm -r {typed(folder)})",
            )
        yield fd
    finally:
        os.close(fd)


def read_private(folder: int, name: str, limit: int) -> bytes:
    """Return the first bytes of a file in a private folder.

    Raises:
        OSError: it is not there, is a link, or may have been written by somebody else.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        if not _is_ours(os.fstat(fd)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return file.read(limit)


def others_may_write(path: Path) -> bool:
    """Tell whether somebody else than this user may write to a folder or file, as far as its mode and owner say."""
    return not _is_ours(path.stat())


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS
