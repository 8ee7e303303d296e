"""The backends that need no server, with the raw access that the contract asks for."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec

from fusery.storage.interface import BlobStore
from fusery.storage.local import LocalStore
from fusery.storage.locate import open_store
from fusery.testing.stores import Backend


class FolderBackend(Backend):
    root: Path

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def names(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}


class LocalBackend(FolderBackend):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = LocalStore(root)

    def reopen(self) -> LocalStore:
        return LocalStore(self.root)


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

    def clear(self) -> None:
        for name in self.names():
            del self.files.store[f"/{self.name}/{name}"]
