"""A store on the Google Cloud Storage server of the tests, and the way past it."""

from __future__ import annotations

import uuid

from gcs_server import BUCKET, GcsServer

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.storage.remote import FsspecStore
from fusery.testing.stores import Backend


class GcsBackend(Backend):
    def __init__(self, server: GcsServer) -> None:
        self.server = server
        self.prefix = uuid.uuid4().hex
        self.url = f"gs://{BUCKET}/{self.prefix}"
        self.store = self.reopen()

    def read(self, name: str) -> bytes | None:
        return self.server.read(f"{self.prefix}/{name}")

    def write(self, name: str, data: bytes) -> None:
        self.server.write(f"{self.prefix}/{name}", data)

    def names(self) -> set[str]:
        start = f"{self.prefix}/"
        return {name.removeprefix(start) for name in self.server.names(start)}

    def reopen(self) -> BlobStore:
        return open_store(self.url, options=self.server.options())

    def at(self, endpoint: str, deadline: float = 20.0) -> BlobStore:
        from fusery.storage.backends.gcs import file_system

        options = {**self.server.options(), "endpoint_url": endpoint, "skip_instance_cache": True}
        return FsspecStore(
            file_system(use_listings_cache=False, **options),
            f"{BUCKET}/{self.prefix}",
            self.url,
            deadline=deadline,
        )
