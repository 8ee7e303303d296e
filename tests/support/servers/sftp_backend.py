"""A store on the SFTP server of the tests, and the way past it."""

from __future__ import annotations

import uuid
from typing import Any

from sftp_server import SftpServer

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.testing.stores import Backend


class SftpBackend(Backend):
    def __init__(self, server: SftpServer) -> None:
        self.server = server
        self.root = server.folder / "data" / uuid.uuid4().hex
        self.url = f"sftp://127.0.0.1:{server.port}{self.root}"
        self.store = self.reopen()

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

    def reopen(self, **options: Any) -> BlobStore:
        return open_store(self.url, options={**self.server.options(), **options})
