"""The store over fsspec's memory file system: the contract."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from storage_backends import MemoryBackend

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import BlobCorruptError, MissingFileError, OutOfSpaceError, StoreMismatchError
from fusery.storage.interface import BlobStore
from fusery.storage.layout import FORMAT_NAME, MAX_FORMAT_BYTES
from fusery.storage.local import LocalStore
from fusery.storage.locate import open_store, open_tree
from fusery.storage.manifest import FileEntry, Outgoing
from fusery.storage.remote import FsspecStore
from fusery.storage.transfer import require_room
from fusery.testing.stores import StoreContract, check_tree, file_with

pytestmark = pytest.mark.timing


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    backend.clear()


class TestMemoryStore(StoreContract):
    pass


class Overwriting(MemoryFileSystem):  # type: ignore[misc]
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        super().pipe_file(path, value)


class OverwritingBackend(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.store = self.reopen()

    def reopen(self) -> BlobStore:
        return FsspecStore(Overwriting(), self.name, f"memory://{self.name}")


class TestOverwritingStore(StoreContract):
    @pytest.fixture
    def backend(self) -> Iterator[OverwritingBackend]:
        backend = OverwritingBackend()
        yield backend
        backend.clear()

    def test_the_probe_finds_out(self, backend: OverwritingBackend) -> None:
        assert not backend.store.create_exclusive
        assert backend.names() == set()


def test_a_folder_of_named_files(tmp_path: Path) -> None:
    check_tree(open_tree(f"memory://{uuid.uuid4().hex}/tree"), tmp_path)


@pytest.fixture
def memory() -> FsspecStore:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    assert isinstance(store, FsspecStore)
    return store


@pytest.mark.parametrize("name", [FORMAT_NAME, "package.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_document_that_is_no_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    store = LocalStore(tmp_path)
    with pytest.raises(MissingFileError):
        store.identify() if name == FORMAT_NAME else store.read_document(name)


def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.touch()
    os.truncate(path, 1 << 42)
    expected = FileEntry("x", 5, digest_bytes(b"12345"))
    for store in (LocalStore(tmp_path / "store"), open_store(f"memory://{uuid.uuid4().hex}")):
        with pytest.raises(BlobCorruptError):
            store.put_file(path, expected=expected)
        assert list(store.blobs()) == []


@pytest.mark.parametrize("data", [b"", b"12345"])
def test_small_files_are_held_against_their_entries(tmp_path: Path, memory: FsspecStore, data: bytes) -> None:
    path = file_with(tmp_path, data)
    right = FileEntry("x", len(data), digest_bytes(data))
    with pytest.raises(BlobCorruptError):
        memory.put_files([Outgoing(path, replace(right, sha256=digest_bytes(b"other")))])
    assert list(memory.blobs()) == []
    memory.put_files([Outgoing(path, right)])
    assert [blob.digest for blob in memory.blobs()] == [right.sha256]


def test_a_marker_is_read_no_further_than_one_is_long(memory: FsspecStore) -> None:
    memory._objects.write(FORMAT_NAME, b" " * 5_000_000, exclusive=False)
    assert memory._read_small(FORMAT_NAME, MAX_FORMAT_BYTES) == b" " * MAX_FORMAT_BYTES
    with pytest.raises(StoreMismatchError):
        memory.identify()


def test_a_size_that_was_made_up_takes_no_memory(memory: FsspecStore) -> None:
    memory._objects.write("x", b"12345", exclusive=False)
    pieces = memory._objects.pieces("x", 1 << 62)
    assert [len(piece) for _, piece in itertools.islice(pieces, 2)] == [5, 0]


def test_more_than_there_is_room_for_is_refused(tmp_path: Path, memory: FsspecStore) -> None:
    with pytest.raises(OutOfSpaceError):
        require_room(LocalStore(tmp_path), [1 << 62])
    require_room(LocalStore(tmp_path), [1])
    require_room(memory, [1 << 62])
