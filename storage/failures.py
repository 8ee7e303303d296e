"""Failures in fusery's words: bytes that are absent or damaged, and the one place that reads an `OSError`."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .digest import Digest
from .errors import (
    BlobCorruptError,
    BlobMissingError,
    MissingFileError,
    OutOfSpaceError,
    StorageError,
    StoreDeniedError,
    StoreUnavailableError,
    UnsafePathError,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})


class AbsentBlobError(BlobMissingError):
    """A blob is not in the store.

    Attributes:
        digest: the blob's digest.
        generation: the requested generation.
    """

    def __init__(self, digest: Digest, generation: int, where: str) -> None:
        """Build the sentence; `where` names the store."""
        self.digest = digest
        self.generation = generation
        suffix = f" (generation {generation})" if generation else ""
        super().__init__(f"blob {digest}{suffix} is not in {where}", hint="run: fusery audit")


class DigestMismatchError(BlobCorruptError):
    """Bytes are not those that were promised.

    Attributes:
        digest: the digest of the blob or file that was expected.
        expected: what was promised: a digest, or `"N bytes"`.
        got: what was found instead.
    """

    def __init__(
        self, subject: str, digest: Digest, expected: str, got: str, *, hint: str | None = None
    ) -> None:
        """Build the sentence; `subject` names the blob or the file."""
        self.digest = digest
        self.expected = expected
        self.got = got
        super().__init__(f"{subject} is damaged: expected {expected}, got {got}", hint=hint)


@contextmanager
def os_failures(doing: str, *, near: Path) -> Iterator[None]:
    """Turn an `OSError` of the body into the storage error that says what it means.

    Args:
        doing: what was attempted, as it reads after "cannot": `"write /a/b"`.
        near: a path on the disk in question, to say how much room it has.

    Raises:
        OutOfSpaceError: ENOSPC, EDQUOT or EFBIG.
        StoreDeniedError: EACCES, EPERM or EROFS.
        MissingFileError: ENOENT or ENOTDIR.
        UnsafePathError: ELOOP, a symbolic link where a file was expected.
        StoreUnavailableError: everything else, such as EIO.
    """
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, near=near) from error


def from_os_error(error: OSError, doing: str, *, near: Path) -> StorageError:
    """Return the storage error for an `OSError`; see `os_failures`."""
    reason = error.strerror or type(error).__name__
    if error.errno in FULL:
        return OutOfSpaceError(
            f"cannot {doing}: {reason.lower()}{_room(near)}", hint="free some space, or use another folder"
        )
    if error.errno in DENIED:
        return StoreDeniedError(
            f"cannot {doing}: {reason.lower()}", hint=f"check who may read and write {_existing(near)}"
        )
    if error.errno in MISSING:
        return MissingFileError(f"cannot {doing}: {reason.lower()}", hint="check the path")
    if error.errno == errno.ELOOP:
        return UnsafePathError(f"cannot {doing}: it is a symbolic link", hint="name the file itself")
    return StoreUnavailableError(f"cannot {doing}: {reason.lower()}")


def _existing(path: Path) -> Path:
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _room(near: Path) -> str:
    try:
        free = shutil.disk_usage(_existing(near)).free
    except OSError:
        return ""
    return f" ({free / 1e6:,.1f} MB free)"
