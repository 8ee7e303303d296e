"""What the operating system refuses, in fusery's words: one place that turns `OSError` into a storage error."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import (
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
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _room(near: Path) -> str:
    try:
        free = shutil.disk_usage(_existing(near)).free
    except OSError:
        return ""
    return f" ({free / 1e6:,.1f} MB free)"
