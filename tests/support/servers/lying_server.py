"""A server that answers each request as a test says, and a client of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.server import Server

TOKEN = "fusery_" + "a" * 43

Write = Callable[[bytes], None]


@contextmanager
def lying(answer: Callable[[bytes, Write], None]) -> Iterator[tuple[Server, list[bytes]]]:
    """Yield a client of a server that answers each request by calling `answer`, and the heads of the requests."""
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as read:
            head = b"".join(iter(read.readline, b"\r\n"))
            heads.append(head)
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    read.read(int(line.partition(b":")[2]))
            answer(head, connection.sendall)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        with Server(ServerAddress.parse(f"http://127.0.0.1:{listener.getsockname()[1]}"), TOKEN) as server:
            yield server, heads
        listener.shutdown(socket.SHUT_RDWR)


def response(data: bytes, status: int = 200, **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + data
