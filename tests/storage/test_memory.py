"""The store over fsspec's memory file system: the contract."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from storage_backends import MemoryBackend

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_tree
from fusery.storage.remote import FsspecStore
from fusery.testing.stores import StoreContract
from fusery.testing.trees import check_tree

pytestmark = pytest.mark.timing


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    backend.clear()


class TestMemoryStore(StoreContract):
    pass


def test_memory_does_not_outlive_the_process(backend: MemoryBackend) -> None:
    assert not backend.store.capabilities.durable


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
        assert not backend.store.capabilities.create_exclusive
        assert backend.names() == set()


def test_a_folder_of_named_files(tmp_path: Path) -> None:
    check_tree(open_tree(f"memory://{uuid.uuid4().hex}/tree"), tmp_path)
