"""Private copies: hashed while they are made, gone afterwards, and watched for what becomes of the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import MissingFileError, OutOfSpaceError, StorageError, UnsafePathError
from fusery.storage.local import LocalStore
from fusery.storage.staging import Staging, manifest_of_staged

DATA = b"weights" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


def test_a_copy_is_private_and_goes_away(file: Path, folder: Path) -> None:
    with Staging(folder) as staging:
        copy = staging.take(file)
        assert copy.read_bytes() == DATA
        assert copy.stat().st_mode & 0o777 == 0o600
        file.write_bytes(b"other")
        assert copy.read_bytes() == DATA
        copies = staging.copies({"a": copy})
        (entry,) = manifest_of_staged(copies)
        assert (entry.path, entry.size, entry.sha256) == ("a", len(DATA), digest_bytes(DATA))
    assert list(folder.iterdir()) == []


def test_what_is_no_copy_yet_is_taken(file: Path, folder: Path) -> None:
    with Staging(folder) as staging:
        copies = staging.copies({"a": file})
        assert copies["a"].path.parent == folder


def _overwrite(file: Path) -> None:
    file.write_bytes(DATA[::-1])


def _replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)


def _link(file: Path) -> None:
    other = file.with_name("other")
    file.rename(other)
    file.symlink_to(other)


@pytest.mark.parametrize("change", [_overwrite, _replace, _link, os.unlink])
def test_a_file_that_changes_is_noticed(file: Path, folder: Path, change: Callable[[Path], object]) -> None:
    with Staging(folder) as staging:
        staging.take(file)
        staging.require_unchanged()
        change(file)
        with pytest.raises(StorageError, match="while it was read"):
            staging.require_unchanged()


def test_what_cannot_be_copied(file: Path, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def full(size: int) -> None:
        raise OutOfSpaceError(f"{size} bytes")

    with Staging(folder, full) as staging:
        with pytest.raises(UnsafePathError):
            staging.take(tmp_path / "pipe")
        with pytest.raises(MissingFileError):
            staging.take(tmp_path / "nowhere")
        with pytest.raises(OutOfSpaceError, match=str(len(DATA))):
            staging.take(file)
    assert list(folder.iterdir()) == []


def test_a_local_store_gives_the_copy_its_name(file: Path, tmp_path: Path) -> None:
    """The bytes are written once: the blob is the copy itself."""
    store = LocalStore(tmp_path / "store")
    with Staging(store.staging_folder) as staging:
        staged = staging.copies({"a": file})["a"]
        number = staged.path.stat().st_ino
        blob = store.put_staged(staged)
        path = store.local_path(blob.digest)
        assert path is not None
        assert path.stat().st_ino == number
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(store.leftovers()) == []
