"""A store on the S3 server of the tests, and the way past it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import fsspec
from s3_server import BUCKET, S3Server

from fusery.storage.interface import BlobStore
from fusery.storage.locate import PROTOCOLS, open_store
from fusery.storage.remote import FsspecStore
from fusery.testing.stores import Backend


class S3Backend(Backend):
    def __init__(self, server: S3Server, client: Any, file_system: Any) -> None:
        self.server = server
        self.client = client
        self.prefix = uuid.uuid4().hex
        # Only `reopen` makes a new connection: it takes half a second.
        self.url = f"s3://{BUCKET}/{self.prefix}"
        self.store: BlobStore = FsspecStore(file_system, f"{BUCKET}/{self.prefix}", self.url)

    def read(self, name: str) -> bytes | None:
        try:
            reply = self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")
        except self.client.exceptions.NoSuchKey:
            return None
        return bytes(reply["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data)

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        keys = [str(item["Key"]) for page in pages for item in page.get("Contents", [])]
        return {key.removeprefix(f"{self.prefix}/") for key in keys}

    def abort_uploads(self) -> None:
        listed = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        for item in listed.get("Uploads", []):
            self.client.abort_multipart_upload(Bucket=BUCKET, Key=item["Key"], UploadId=item["UploadId"])

    def reopen(self) -> BlobStore:
        return open_store(self.url, options=self.server.options())

    def at(self, endpoint: str, deadline: float = 30.0) -> BlobStore:
        """Return the same store at another endpoint, such as that of a proxy."""
        return self.seen_by(file_system_of(replace(self.server, endpoint=endpoint)), deadline)

    def seen_by(self, file_system: Any, deadline: float = 30.0) -> BlobStore:
        """Return the same store, seen by another file system."""
        return FsspecStore(file_system, f"{BUCKET}/{self.prefix}", self.url, deadline=deadline)


def file_system_of(server: S3Server, **config: Any) -> Any:
    """Return a file system with a connection of its own, as a store opens it but for what `config` says to botocore."""
    options = {**PROTOCOLS["s3"].options, **server.options()}
    options["config_kwargs"] = {**options["config_kwargs"], **config}
    return fsspec.filesystem("s3", **options)
