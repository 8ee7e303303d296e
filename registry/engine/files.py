"""Read and write whole ranges of open files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from fusery.storage.errors import BlobCorruptError, MissingFileError

_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def open_input(path: Path) -> int:
    """Open a file for reading; return its descriptor."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from error


class OpenFiles(ExitStack):
    """Descriptors of open files, closed together."""

    def hold(self, descriptor: int) -> int:
        """Take a descriptor over, and return it."""
        self.callback(os.close, descriptor)
        return descriptor

    def inputs(self, paths: Iterable[Path]) -> dict[Path, int]:
        """Open files for reading; return their descriptors in the order of the paths."""
        return {path: self.hold(open_input(path)) for path in sorted(set(paths))}


def create_output(path: Path, header: bytes, size: int) -> int:
    """Create a file of its final size that begins with `header`; return its descriptor."""
    # The size is set first so that threads can write anywhere in it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, size)
        write_all(descriptor, memoryview(header), 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer of bytes from a file."""
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise BlobCorruptError("a file became shorter while it was being read")
        buffer, offset = buffer[count:], offset + count


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write bytes to a place in a file."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def copy_range(source: int, target: int, offset: int, place: int, size: int) -> bool:
    """Copy bytes from one file to another without bringing them here; a reflink where the file system has them."""
    # False where the system cannot, and then something may have been copied.
    if not hasattr(os, "copy_file_range"):
        return False
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(source, target, size - done, offset + done, place + done)
        except OSError as error:
            if error.errno in _CANNOT_COPY:
                return False
            raise
        if not count:
            return False  # some file systems answer 0 for "cannot"
        done += count
    return True
