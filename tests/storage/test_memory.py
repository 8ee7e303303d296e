"""The store over fsspec's memory file system: the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storage_backends import MemoryBackend
from store_contract import HELLO, StoreContract

from fusery.storage.locate import open_store


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    backend.clear()


class TestMemoryStore(StoreContract):
    pass


def test_two_names_are_two_stores(backend: MemoryBackend) -> None:
    backend.store.put_bytes(HELLO)
    assert list(open_store("memory://another").blobs()) == []


def test_memory_does_not_outlive_the_process(backend: MemoryBackend) -> None:
    assert not backend.store.capabilities.durable
