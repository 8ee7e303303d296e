"""Copies: hashed on the way, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from storage_backends import LocalBackend, MemoryBackend

from fusery.storage import copying
from fusery.storage.copying import CHUNK, Staging, copy_file, pump, reading
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
from fusery.storage.objects import Objects
from fusery.storage.transfer import transfer
from fusery.testing.stores import Backend, name_of

SHA256 = hashlib.sha256
SIZES = [0, 1, CHUNK, 11 * CHUNK + 5]


def source_of(tmp_path: Path, size: int) -> tuple[Path, bytes]:
    data = os.urandom(min(size, 1 << 16)) * (size // (1 << 16) + 1)
    path = tmp_path / "source"
    path.write_bytes(data[:size])
    return path, data[:size]


@pytest.mark.parametrize("size", SIZES)
def test_pump_copies_hashes_and_counts(tmp_path: Path, size: int) -> None:
    path, data = source_of(tmp_path, size)
    steps: list[int] = []
    with reading(path) as source, (tmp_path / "target").open("w+b") as target:
        assert pump(source.fd, target.fileno(), progress=steps.append) == (digest_bytes(data), size)
    with reading(path) as source:
        assert pump(source.fd, None) == (digest_bytes(data), size)
    assert (tmp_path / "target").read_bytes() == data
    assert sum(steps) == size


def test_only_a_whole_file_is_cloned_and_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"data")
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)
    with (tmp_path / "f").open("rb", buffering=0) as source:
        for system, position, cloned in (("linux", 0, True), ("linux", 1, False), ("darwin", 0, False)):
            monkeypatch.setattr(sys, "platform", system)
            source.seek(position)
            assert copying.clone(source.fileno(), -1) is cloned


def test_a_clone_is_hashed_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(_source: int, target: int) -> bool:
        os.pwrite(target, b"cloned", 0)
        return True

    path, _ = source_of(tmp_path, 100)
    monkeypatch.setattr(copying, "clone", pretend)
    with reading(path) as source, (tmp_path / "target").open("w+b") as target:
        assert pump(source.fd, target.fileno()) == (digest_bytes(b"cloned"), 6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checked", [True, False])
def test_a_copy_has_the_same_bytes_and_is_its_own_file(tmp_path: Path, size: int, checked: bool) -> None:
    path, data = source_of(tmp_path, size)
    path.chmod(0o444)
    expected = digest_bytes(data) if checked else None
    assert not copy_file(path, tmp_path / "copy", expected=expected)
    assert (tmp_path / "copy").read_bytes() == data
    found = (tmp_path / "copy").stat()
    assert (found.st_nlink, found.st_mode & 0o200) == (1, 0o200)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]
    with pytest.raises(StorageError):
        copy_file(path, tmp_path / "copy")
    assert copy_file(path, tmp_path / "link", link=True, expected=expected)
    assert (tmp_path / "link").samefile(path)


def test_where_no_link_can_be_made_a_copy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 3 * CHUNK)
    real, first = os.link, [True]

    def refuse(*arguments: str, **options: bool) -> None:
        if first.pop() if first else False:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(*arguments, **options)

    monkeypatch.setattr(os, "link", refuse)
    assert copy_file(path, tmp_path / "copy", link=True) is False
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("link", [True, False])
def test_a_copy_of_other_bytes_than_expected_is_not_made(tmp_path: Path, link: bool) -> None:
    path, _ = source_of(tmp_path, 3 * CHUNK)
    with pytest.raises(DigestMismatchError):
        copy_file(path, tmp_path / "copy", link=link, expected=digest_bytes(b"other"))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path, _ = source_of(tmp_path, 100)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutOfSpaceError):
        copy_file(path, tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_link_to_a_replaced_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 1000)
    other = tmp_path / "other"
    other.write_bytes(bytes(1000))
    real = os.link

    def meddle(source: Path, target: Path, **options: bool) -> None:
        other.replace(path)
        real(source, target, **options)

    monkeypatch.setattr(os, "link", meddle)
    with pytest.raises(StorageError) as caught:
        copy_file(path, tmp_path / "copy", link=True, expected=digest_bytes(data))
    assert caught.value.code == "storage"
    assert not (tmp_path / "copy").exists()


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
        (entry,) = (copy.entry(name) for name, copy in copies.items())
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


def test_changed_or_removed_copy_is_not_stored(file: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with Staging(store.staging_folder) as staging:
        staged = staging.copies({"a": file})["a"]
        with staged.path.open("r+b") as looked_at:
            looked_at.write(b"other")
        with pytest.raises(StorageError) as caught:
            store.put_staged(staged)
        assert caught.value.code == "storage"
        staged.path.unlink()
        with pytest.raises(StoreUnavailableError) as told:
            store.put_staged(staged)
        assert told.value.hint == "run the command again"
    assert list(store.blobs()) == []
    assert list(store.leftovers()) == []


TRANSFERRED_DATA = os.urandom(1 << 20) * 5 + b"tail"
BLOB = Blob(digest_bytes(TRANSFERRED_DATA), len(TRANSFERRED_DATA))
KINDS: dict[str, Callable[[Path], Backend]] = {"folder": LocalBackend, "objects": lambda _: MemoryBackend()}


@pytest.fixture(params=sorted(KINDS))
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return KINDS[request.param](tmp_path / "origin")


@pytest.fixture(params=sorted(KINDS))
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return KINDS[request.param](tmp_path / "target")


def test_a_blob_arrives_under_its_generation(origin: Backend, target: Backend) -> None:
    origin.store.put_bytes(TRANSFERRED_DATA, generation=2)
    before = origin.names()
    told: list[int] = []
    made = transfer(
        origin.store, target.store, replace(BLOB, generation=2), generation=7, progress=told.append
    )
    assert made == replace(BLOB, generation=7)
    assert target.read(name_of(BLOB.digest, 7)) == TRANSFERRED_DATA
    assert sum(told) == len(TRANSFERRED_DATA)
    assert origin.names() == before
    assert target.names() == {name_of(BLOB.digest, 7)}


def test_only_a_damaged_blob_is_replaced(origin: Backend, target: Backend) -> None:
    origin.store.put_bytes(TRANSFERRED_DATA)
    transfer(origin.store, target.store, BLOB)
    names = target.names()
    transfer(origin.store, target.store, BLOB)
    assert target.names() == names
    target.write(name_of(BLOB.digest), b"x" + TRANSFERRED_DATA[1:])
    transfer(origin.store, target.store, BLOB)
    assert target.read(name_of(BLOB.digest)) == TRANSFERRED_DATA
    assert [target.read(name) for name in target.names() - names] == [b"x" + TRANSFERRED_DATA[1:]]


@pytest.mark.parametrize(
    "wrong",
    [TRANSFERRED_DATA[:-1], TRANSFERRED_DATA + b"!", b"x" + TRANSFERRED_DATA[1:], b""],
    ids=["short", "long", "flipped", "empty"],
)
def test_damaged_blob_does_not_arrive(origin: Backend, target: Backend, wrong: bytes) -> None:
    origin.write(name_of(BLOB.digest), wrong)
    with pytest.raises(DigestMismatchError):
        transfer(origin.store, target.store, BLOB)
    assert target.names() == set()


def test_wrong_bytes_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, target = MemoryBackend(), LocalBackend(tmp_path / "target")
    origin.store.put_bytes(TRANSFERRED_DATA)
    pieces = Objects.pieces
    turns: list[str] = []

    def at_first_wrong(self: Objects, name: str, size: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
        turns.append(name)
        for wanted, piece in pieces(self, name, size, first):
            yield wanted, piece if len(turns) > 1 else bytes(len(piece))

    monkeypatch.setattr(Objects, "pieces", at_first_wrong)
    transfer(origin.store, target.store, BLOB)
    assert len(turns) == 2
    assert target.read(name_of(BLOB.digest)) == TRANSFERRED_DATA
