"""An Azure Blob Storage server for tests: Azurite, Microsoft's own emulator, which `make test` fetches."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_port

# Azurite's own, documented and the same everywhere.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "fusery-test"
FOLDER = Path(__file__).resolve().parents[3] / ".venv-azurite"


def find_server() -> list[str] | None:
    """Return the command that runs it, None if Azurite or Node.js is not there."""
    script = FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    node = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    return [node, str(script)] if node and script.exists() else None


@dataclass(frozen=True, slots=True)
class AzureServer:
    endpoint: str

    def options(self) -> dict[str, Any]:
        """Options for `open_store`."""
        place = f"BlobEndpoint={self.endpoint}/{ACCOUNT}"
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{place}"
        return {"connection_string": text}

    def client(self) -> Any:
        """Azure's own client for the container: the way past the store."""
        from azure.storage.blob import BlobServiceClient

        client = BlobServiceClient.from_connection_string(self.options()["connection_string"], retry_total=0)
        return client.get_container_client(CONTAINER)


@contextmanager
def running_server(command: list[str], folder: Path) -> Iterator[AzureServer]:
    """Run a server that keeps its data in `folder`, with one container."""
    from azure.core.exceptions import AzureError

    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder / "data")]
    options += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, cwd=folder, start_new_session=True
        ) as process,
    ):
        try:
            server = AzureServer(f"http://127.0.0.1:{port}")
            give_up = time.monotonic() + 240
            with server.client() as client:
                while True:
                    try:
                        client.create_container()
                        break
                    except AzureError as error:
                        if process.poll() is not None or time.monotonic() > give_up:
                            raise RuntimeError(
                                (folder / "log").read_text(errors="replace")[-2000:]
                            ) from error
                        time.sleep(0.1)
            yield server
        finally:
            # `node` may be a program that runs the real one, which would go on.
            os.killpg(process.pid, signal.SIGKILL)
