"""The store over fsspec's memory file system: the contract."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import fsspec
import pytest
from store_contract import HELLO, Backend, StoreContract

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store


class MemoryBackend(Backend):
    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.store: BlobStore = open_store(f"memory://{self.name}")
        self.files = fsspec.filesystem("memory")

    def read(self, name: str) -> bytes | None:
        file = self.files.store.get(f"/{self.name}/{name}")
        return None if file is None else bytes(file.getvalue())

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"/{self.name}/{name}", data)

    def names(self) -> set[str]:
        start = f"/{self.name}/"
        return {name.removeprefix(start) for name in self.files.store if name.startswith(start)}

    def reopen(self) -> BlobStore:
        return open_store(f"memory://{self.name}")


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    for name in [*backend.names()]:
        del backend.files.store[f"/{backend.name}/{name}"]


class TestMemoryStore(StoreContract):
    pass


def test_two_names_are_two_stores(backend: MemoryBackend) -> None:
    backend.store.put_bytes(HELLO)
    assert list(open_store("memory://another").blobs()) == []


def test_memory_does_not_outlive_the_process(backend: MemoryBackend) -> None:
    assert not backend.store.capabilities.durable
