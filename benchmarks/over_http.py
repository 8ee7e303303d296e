"""Push and pull of one large blob through a server, against curl with sha256sum moving the same bytes to and from it.

Both sides of a pull hash what they get; a push is hashed by the server.  `python benchmarks/over_http.py [--megabytes 256]`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fusery.registry import Registry, tables
from fusery.registry.records.deposit import record_manifest
from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.blobs import download, upload
from fusery.registry.remote.server import Server
from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Return how long a call takes; what was written before is on the disk, and no burden any more."""
    os.sync()
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.megabytes << 20, options.rounds)


def measure(folder: Path, size: int, rounds: int) -> None:
    """Measure both directions, each side in turn."""
    home, scratch = folder / "home", folder / "scratch"
    scratch.mkdir()
    with Registry.open(home) as registry:
        registry.init()
        token = registry.tokens.create("bench", "publisher").secret
        command = [
            sys.executable,
            "-c",
            "from fusery.cli.main import main; main()",
            "server",
            "--port",
            "0",
            "--json",
        ]
        server = subprocess.Popen(
            command, env=os.environ | {"FUSERY_REGISTRY": str(home)}, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            printed = ""
            while not printed.endswith("}\n"):
                printed += server.stdout.readline()
            compare(registry, json.loads(printed)["url"], token, scratch, size, rounds)
        finally:
            server.terminate()
            server.wait()


def compare(registry: Registry, url: str, token: str, scratch: Path, size: int, rounds: int) -> None:
    """Print megabytes a second, and the ratio."""
    found: dict[str, list[float]] = {"push": [], "PUT": [], "pull": [], "GET": []}
    with Server(ServerAddress.parse(url), token) as server:
        for number in range(rounds):
            ours, theirs = (blob(scratch, size, f"{number} {side}") for side in ("ours", "theirs"))
            found["push"].append(seconds(upload, server, *ours, 0, None))
            found["PUT"].append(seconds(put, url, token, *theirs))
            refer_to(registry, ours[0])
            come = scratch / "come"
            found["GET"].append(seconds(get, url, token, ours[0], scratch / "got"))
            found["pull"].append(seconds(download, server, ours[0], come, scratch, None))
            for path in (ours[1], theirs[1], come, scratch / "got"):
                path.unlink()
    for mine, yardstick in (("push", "PUT"), ("pull", "GET")):
        speed, other = (size / 1e6 / statistics.median(found[each]) for each in (mine, yardstick))
        ratio = statistics.median(
            theirs / ours for ours, theirs in zip(found[mine], found[yardstick], strict=True)
        )
        print(f"{mine}: {speed:,.0f} MB/s; curl {yardstick}: {other:,.0f} MB/s; ratio {ratio:.2f} in pairs")


def blob(scratch: Path, size: int, name: str) -> tuple[FileEntry, Path]:
    """Make a file that no other is like."""
    path, running = scratch / name.replace(" ", "-"), hashlib.sha256()
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            running.update(piece)
            file.write(piece)
    return FileEntry("blob", size, Digest(running.hexdigest())), path


def curl(token: str, *arguments: str | Path) -> None:
    """Run curl with a token."""
    command = [
        "curl",
        "--silent",
        "--fail",
        "--header",
        f"Authorization: Bearer {token}",
        "--header",
        "Expect:",
    ]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)


def put(url: str, token: str, entry: FileEntry, path: Path) -> None:
    """Send a file, which the server hashes."""
    curl(token, "--upload-file", path, f"{url}/api/v1/blobs/{entry.sha256}")


def get(url: str, token: str, entry: FileEntry, path: Path) -> None:
    """Fetch a file, and hash it."""
    curl(token, "--output", path, f"{url}/api/v1/blobs/{entry.sha256}")
    printed = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout
    assert printed.startswith(entry.sha256)


def refer_to(registry: Registry, entry: FileEntry) -> None:
    """Let a record that is no real one refer to the blob, so that a reader gets it."""
    with registry.workspace.database.write() as session:
        manifest = record_manifest(session, Manifest.of([entry]))
        for file in manifest.files:
            file.blob = file.sha256
        session.add(
            tables.BaseModelRow(
                digest=manifest.digest,
                architecture="none",
                model_type="none",
                parameters=1,
                dtype="float32",
                bytes=entry.size,
                config={},
                weights={},
                written_by_mlx=False,
                created_at=registry.workspace.database.utcnow(session),
                created_by="bench",
                manifest_id=manifest.id,
            )
        )


if __name__ == "__main__":
    main()
