"""An Azure Blob Storage server for tests: Azurite, Microsoft's own emulator, which `make test` fetches."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import free_port, running_program

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


# Azurite's own, documented and the same everywhere.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "fusery-test"
FOLDER = Path(__file__).resolve().parents[3] / ".venv-azurite"


def find_server() -> list[str] | None:
    script = FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    node = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    return [node, str(script)] if node and script.exists() else None


@dataclass(frozen=True, slots=True)
class AzureServer:
    endpoint: str

    def options(self) -> dict[str, Any]:
        place = f"BlobEndpoint={self.endpoint}/{ACCOUNT}"
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{place}"
        return {"connection_string": text}

    def client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        client = BlobServiceClient.from_connection_string(self.options()["connection_string"], retry_total=0)
        return client.get_container_client(CONTAINER)


@contextmanager
def running_server(command: list[str], folder: Path) -> Iterator[AzureServer]:
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder / "data")]
    options += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    server = AzureServer(f"http://127.0.0.1:{port}")
    with (
        server.client() as client,
        running_program([*command, *options], folder / "log", client.create_container, folder=folder),
    ):
        yield server
