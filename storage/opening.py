"""Opening a file that nobody vouches for: what is no regular file when it is opened does not get in."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import MissingFileError
from .failures import os_failures

_NO_FILE = frozenset({errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.ELOOP})
"""What `open` says of a socket, of a device without a driver, of a folder, of a circle of links."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe, a device, a socket or a folder is not waited for and not read.

    Links are followed: `folder.scan` decides where they may lead, and hands out paths without any.

    Raises:
        MissingFileError: there is no such file, or it is not a regular one.
        StoreDeniedError: it may not be read.
        StorageError: the operating system failed to read it.
    """
    with os_failures(f"read {path}", near=path), _regular(path) as file:
        yield file


def _regular(path: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(path)
    return os.fdopen(fd, "rb")


def _no_file(path: Path) -> MissingFileError:
    return MissingFileError(f"{path} is not a file that can be read", hint="name a regular file")
