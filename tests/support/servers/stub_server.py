"""Small HTTP servers that answer from memory."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.server import Server

TOKEN = "fusery_" + "a" * 43

Write = Callable[[bytes], None]


@contextmanager
def raw_server(serve: Callable[[socket.socket], object], port: int = 0) -> Iterator[int]:
    """Serve each connection in a thread until the block ends; yield the port."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def lying(answer: Callable[[bytes, Write], None]) -> Iterator[tuple[Server, list[bytes]]]:
    """Yield a client of a server that answers each request by calling `answer`, and the heads of the requests."""
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as read:
            head = b"".join(iter(read.readline, b"\r\n"))
            heads.append(head)
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    read.read(int(line.partition(b":")[2]))
            answer(head, connection.sendall)

    with raw_server(serve) as port, Server(ServerAddress.parse(f"http://127.0.0.1:{port}"), TOKEN) as server:
        yield server, heads


def response(data: bytes, status: int = 200, **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(data)}")
    lines.append("Connection: close")  # a connection has one request
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + data


class StubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        """Answer; `_` in a header's name is a hyphen."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_json(self, status: int, value: Any, **headers: str) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever was there has gone
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _StubServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # clients open several connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone away; anything else is a mistake here."""
        if not isinstance(sys.exc_info()[1], OSError | HTTPException):
            super().handle_error(request, client_address)


@contextmanager
def serving_stub(handler: Any, port: int = 0) -> Iterator[str]:
    server = _StubServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
