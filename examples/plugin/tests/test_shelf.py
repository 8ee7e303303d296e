from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from fusery_example.shelf import Shelf

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.testing.stores import Backend, StoreContract


class ShelfBackend(Backend):
    """A shelf, and what is on it without the store's help."""

    def __init__(self) -> None:
        self.root = f"/{uuid.uuid4().hex}"
        self.store = self.reopen()
        self.files = Shelf()

    def read(self, name: str) -> bytes | None:
        found = self.files.store.get(f"{self.root}/{name}")
        return None if found is None else bytes(found.getvalue())

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", data)

    def names(self) -> set[str]:
        start = f"{self.root}/"
        return {name.removeprefix(start) for name in self.files.store if name.startswith(start)}

    def reopen(self) -> BlobStore:
        return open_store(f"shelf:/{self.root}")


class TestShelf(StoreContract):
    @pytest.fixture
    def backend(self) -> Iterator[ShelfBackend]:
        yield ShelfBackend()
        Shelf.store.clear()
