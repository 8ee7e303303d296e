"""What the operating system refuses, in fusery's words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusery.storage.errors import (
    MissingFileError,
    OutOfSpaceError,
    StorageError,
    StoreDeniedError,
    StoreUnavailableError,
    UnsafePathError,
)
from fusery.storage.failures import os_failures


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (errno.ENOSPC, OutOfSpaceError),
        (errno.EFBIG, OutOfSpaceError),
        (errno.EACCES, StoreDeniedError),
        (errno.EROFS, StoreDeniedError),
        (errno.ENOTDIR, MissingFileError),
        (errno.ELOOP, UnsafePathError),
        (errno.EIO, StoreUnavailableError),
    ],
)
def test_every_code_has_its_error(tmp_path: Path, code: int, wanted: type[StorageError]) -> None:
    cause = OSError(code, os.strerror(code))
    with pytest.raises(wanted) as caught, os_failures("write there", near=tmp_path / "not" / "yet"):
        raise cause
    assert caught.value.message.startswith("cannot write there: ")
    assert caught.value.__cause__ is cause
    assert ("MB free" in caught.value.message) == (wanted is OutOfSpaceError)


def test_what_is_no_failure_of_the_system_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyError), os_failures("x", near=tmp_path):
        raise KeyError
    ours = StorageError("ours")
    with pytest.raises(StorageError) as caught, os_failures("x", near=tmp_path):
        raise ours
    assert caught.value is ours
