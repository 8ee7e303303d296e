"""A store on the Google Cloud Storage server of the tests, and the way past it."""

from __future__ import annotations

import uuid

import fsspec
from gcs_server import BUCKET, GcsServer

from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.storage.remote import FsspecStore
from fusery.testing.stores import Backend


class GcsBackend(Backend):
    def __init__(self, server: GcsServer) -> None:
        self.server = server
        self.root = f"{BUCKET}/{uuid.uuid4().hex}"
        self.url = f"gs://{self.root}"
        self.files = fsspec.filesystem("gs", use_listings_cache=False, **server.options())
        self.store = self.reopen()

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self.files.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", data)

    def names(self) -> set[str]:
        return {path.removeprefix(f"{self.root}/") for path in self.files.find(self.root)}

    def reopen(self) -> BlobStore:
        return open_store(self.url, options=self.server.options())

    def at(self, endpoint: str, deadline: float) -> BlobStore:
        from fusery.storage.backends.gcs import file_system

        options = {**self.server.options(), "endpoint_url": endpoint, "skip_instance_cache": True}
        return FsspecStore(
            file_system(use_listings_cache=False, **options),
            self.root,
            self.url,
            deadline=deadline,
        )
