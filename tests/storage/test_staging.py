"""Private copies: hashed while they are made, gone afterwards, and watched for what becomes of the files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import (
    MissingFileError,
    OutOfSpaceError,
    StorageError,
    StoreUnavailableError,
    UnsafePathError,
)
from fusery.storage.failures import DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.local import LocalStore
from fusery.storage.manifest import FileEntry
from fusery.storage.pouring import pour_into
from fusery.storage.staging import Staged, Staging, manifest_of_staged

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


def _replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)


def _link(file: Path) -> None:
    other = file.with_name("other")
    file.rename(other)
    file.symlink_to(other)


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(DATA[::-1]), _replace, _link, os.unlink])
def test_a_file_that_changes_is_noticed(file: Path, folder: Path, change: Callable[[Path], object]) -> None:
    with Staging(folder) as staging:
        staging.take(file)
        staging.require_unchanged()
        change(file)
        with pytest.raises(StorageError) as caught:
            staging.require_unchanged()
        assert caught.value.code == "storage"


def test_what_cannot_be_copied(
    file: Path, folder: Path, tmp_path: Path, other: tuple[LocalStore, Blob]
) -> None:
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
        with pytest.raises(OutOfSpaceError, match=str(len(DATA))):
            _receive(staging, other, folder / "arrived")
    assert list(folder.iterdir()) == []


@pytest.fixture
def other(tmp_path: Path, file: Path) -> tuple[LocalStore, Blob]:
    store = LocalStore(tmp_path / "other")
    return store, store.put_file(file)


def _receive(staging: Staging, other: tuple[LocalStore, Blob], place: Path) -> None:
    store, blob = other
    entry = FileEntry("a", blob.size, blob.digest)
    staging.receive(entry, place, lambda fd: pour_into(store, blob, fd))


def test_received_blob_is_written_once(other: tuple[LocalStore, Blob], tmp_path: Path) -> None:
    origin, blob = other
    store, place = LocalStore(tmp_path / "store"), tmp_path / "arrived"
    with Staging(store.staging_folder) as staging:
        _receive(staging, (origin, blob), place)
        assert place.read_bytes() == DATA
        assert place.stat().st_mode & 0o777 == 0o600
        sources = staging.sources({"a": place, "b": tmp_path / "elsewhere"})
        assert sources["b"] == tmp_path / "elsewhere"
        staged = sources["a"]
        assert isinstance(staged, Staged)
        assert staged.entry("a").sha256 == blob.digest
        stored = store.local_path(store.put_staged(staged).digest)
        assert stored is not None
        assert stored.stat().st_ino == place.stat().st_ino
    assert stored.read_bytes() == DATA
    assert stored.stat().st_mode & 0o777 == 0o444
    assert list(store.leftovers()) == []


def test_what_comes_damaged_does_not_get_a_name(other: tuple[LocalStore, Blob], tmp_path: Path) -> None:
    origin, blob = other
    damaged = origin.local_path(blob.digest)
    assert damaged is not None
    damaged.chmod(0o600)
    damaged.write_bytes(DATA[::-1])
    store, place = LocalStore(tmp_path / "store"), tmp_path / "arrived"
    with Staging(store.staging_folder) as staging:
        with pytest.raises(DigestMismatchError):
            _receive(staging, (origin, blob), place)
        assert not place.exists()
        assert staging.sources({"a": place}) == {"a": place}
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("comes", [True, False], ids=["comes", "copied"])
def test_changed_copy_is_not_stored(
    other: tuple[LocalStore, Blob], file: Path, tmp_path: Path, comes: bool
) -> None:
    store, place = LocalStore(tmp_path / "store"), tmp_path / "arrived"
    with Staging(store.staging_folder) as staging:
        if comes:
            _receive(staging, other, place)
        else:
            place = staging.take(file)
        staged = staging.sources({"a": place})["a"]
        assert isinstance(staged, Staged)
        with place.open("r+b") as looked_at:
            looked_at.write(b"other")
        with pytest.raises(StorageError) as caught:
            store.put_staged(staged)
        assert caught.value.code == "storage"
    assert list(store.blobs()) == []
    assert list(store.leftovers()) == []


def test_what_somebody_removed_meanwhile(other: tuple[LocalStore, Blob], tmp_path: Path) -> None:
    store, place = LocalStore(tmp_path / "store"), tmp_path / "arrived"
    with Staging(store.staging_folder) as staging:
        _receive(staging, other, place)
        staged = staging.sources({"a": place})["a"]
        assert isinstance(staged, Staged)
        staged.path.unlink()
        assert staging.sources({"a": place}) == {"a": place}
        with pytest.raises(StoreUnavailableError) as told:
            store.put_staged(staged)
        assert told.value.hint == "run the command again"
        store.put_file(place)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system")
def test_place_on_another_disk_gets_a_copy(other: tuple[LocalStore, Blob], folder: Path) -> None:
    with Staging(folder) as staging, tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        place = Path(elsewhere, "arrived")
        _receive(staging, other, place)
        assert place.read_bytes() == DATA
        assert isinstance(staging.sources({"a": place})["a"], Staged)
