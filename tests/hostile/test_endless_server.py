"""A server that never ends, as the other side of pull, push, backup and restore."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hostile.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timing]

PULL, PUSH = ("pull", "course_rec@1"), ("push", "own_task@1")
BOTH = (PULL, PUSH)


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


@pytest.mark.parametrize(
    "words", [PULL, ("admin", "backup"), ("admin", "restore")], ids=lambda words: words[-1]
)
def test_a_server_that_never_ends_is_left(stage: Stage, words: tuple[str, ...]) -> None:
    with endless() as port:
        stage.allowed.add(port)
        options = {
            "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "x"},
            "key": "a",
        }
        stage.environment["FUSERY_OTHER_STORE_OPTIONS"] = json.dumps({**options, "secret": "b", "token": "c"})
        there = ("--from", "s3://bucket/x") if words == PULL else ("s3://bucket/x",)
        home = stage.folder / "new" if words == ("admin", "restore") else None
        stage.attempt(*words, *there, says="is not JSON|too large", home=home)
