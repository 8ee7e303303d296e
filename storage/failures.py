"""Failures in fusery's words, the one place that reads an `OSError`, and files that are opened with suspicion."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from . import errors
from .digest import Digest

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENXIO})


class AbsentBlobError(errors.BlobMissingError):
    """A blob is not in the store."""

    code = "blob_missing"

    def __init__(self, digest: Digest, generation: int, where: str) -> None:
        self.digest = digest
        self.generation = generation
        suffix = f" (generation {generation})" if generation else ""
        super().__init__(f"blob {digest}{suffix} is not in {where}", hint="run: fusery audit")


class DigestMismatchError(errors.BlobCorruptError):
    """The bytes do not match the expected digest or size."""

    code = "blob_corrupt"

    def __init__(
        self, subject: str, digest: Digest, expected: str, got: str, *, hint: str | None = None
    ) -> None:
        self.digest = digest
        self.expected = expected
        self.got = got
        super().__init__(f"{subject} is damaged: expected {expected}, got {got}", hint=hint)


@contextmanager
def os_failures(doing: str, *, near: Path) -> Iterator[None]:
    """Turn an `OSError` of the body into a storage error: "cannot `doing`"; `near` is a path on the same disk."""
    try:
        yield
    except OSError as error:
        text = f"cannot {doing}: {(error.strerror or type(error).__name__).lower()}"
        raised: errors.StorageError = errors.StoreUnavailableError(text)
        if error.errno in FULL:
            free = ""
            with suppress(OSError):
                free = f" ({shutil.disk_usage(existing_folder(near)).free / 1e6:,.1f} MB free)"
            raised = errors.OutOfSpaceError(f"{text}{free}", hint="free some space, or use another folder")
        elif error.errno in DENIED:
            hint = f"check who may read and write {existing_folder(near)}"
            raised = errors.StoreDeniedError(text, hint=hint)
        elif error.errno in MISSING:
            raised = errors.MissingFileError(text, hint="check the path")
        elif error.errno == errno.ELOOP:
            problem = f"cannot {doing}: it is a symbolic link"
            raised = errors.UnsafePathError(problem, hint="name the file itself")
        raise raised from error


def existing_folder(path: Path) -> Path:
    """Return the path, or the first of its parents that exists."""
    return next(place for place in (path, *path.parents) if os.path.exists(place) or place == place.parent)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, through links; a pipe, a device, a socket or a folder is not waited for."""
    with os_failures(f"read {path}", near=path):
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise errors.MissingFileError(f"{path} is not a regular file", hint="name a file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(fd)
