"""A store on Azurite, and the way past it."""

from __future__ import annotations

import uuid
from typing import Any

from azure_server import CONTAINER, AzureServer

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.testing.stores import Backend


class AzureBackend(Backend):
    def __init__(self, server: AzureServer, container: Any) -> None:
        self.server = server
        self.container = container
        self.prefix = uuid.uuid4().hex
        self.url = f"az://{CONTAINER}/{self.prefix}"
        self.store = self.reopen()

    def read(self, name: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return bytes(self.container.download_blob(f"{self.prefix}/{name}").readall())
        except ResourceNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        self.container.upload_blob(f"{self.prefix}/{name}", data, overwrite=True)

    def names(self) -> set[str]:
        start = f"{self.prefix}/"
        return {name.removeprefix(start) for name in self.container.list_blob_names(name_starts_with=start)}

    def reopen(self) -> BlobStore:
        return open_store(self.url, options=self.server.options())

    def at(self, endpoint: str, deadline: float = 20.0) -> BlobStore:
        store = open_store(self.url, options=AzureServer(endpoint).options())
        store._objects.calls.deadline = deadline  # type: ignore[attr-defined]
        return store
