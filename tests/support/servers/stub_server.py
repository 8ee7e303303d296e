"""Small HTTP servers that answer from memory."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
    lines.append("Connection: close")  # a connection has one request
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + data


@dataclass(frozen=True)
class Reply:
    status: int
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def ask(url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, content, dict(headers or {}))
    try:
        with opener.open(request, timeout=60) as answer:
            return Reply(answer.status, answer.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Reply(refused.code, refused.read().decode())


def post(url: str, body: Any, key: str | None = None) -> Reply:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    return ask(url, json.dumps(body).encode(), headers)


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


@contextmanager
def serving_stub(handler: Any, port: int = 0) -> Iterator[str]:
    """Serve with a class of handlers until the block ends; yield the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
