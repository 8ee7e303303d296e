"""A store on the SFTP server of the tests, and the way past it."""

from __future__ import annotations

import uuid
from typing import Any

from sftp_server import SftpServer
from storage_backends import FolderBackend

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store


class SftpBackend(FolderBackend):
    def __init__(self, server: SftpServer) -> None:
        self.server = server
        self.root = server.folder / "data" / uuid.uuid4().hex
        self.url = f"sftp://127.0.0.1:{server.port}{self.root}"
        self.store = self.reopen()

    def reopen(self, **options: Any) -> BlobStore:
        return open_store(self.url, options={**self.server.options(), **options})
