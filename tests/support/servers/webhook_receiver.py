"""A receiver of webhooks on this machine that behaves, or misbehaves, as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stub_server import raw_server
from waiting import PATIENCE

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
ANSWERS = {
    "well": OK,
    "created": b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "not http": b"220 mail.example ESMTP\r\n",
    "close": b"",
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * (1 << 20),
    "long headers": b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * (1 << 20) + b"\r\n\r\n",
}
"""What it sends, by what it is called; besides, it may `hang`, and send `a byte at a time`."""


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def seq(self) -> int:
        return int(self.document["data"]["seq"])


@dataclass
class Receiver:
    port: int
    manner: str = "well"
    requests: list[Request] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            first = lines.readline().decode()
            if not first:
                return
            headers = {}
            while (line := lines.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            request = Request(first.split()[1], headers, lines.read(int(headers.get("content-length", 0))))
        manner = self.manner
        with self.lock:
            self.requests.append(request)
            if manner in ("well", "created", "huge"):
                self.taken.append(request.seq)
        if manner == "hang":
            self.over.wait(PATIENCE)
        elif manner == "a byte at a time":
            for byte in OK:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        else:
            connection.sendall(ANSWERS[manner])


@contextmanager
def up(receiver: Receiver) -> Iterator[None]:
    with raw_server(receiver.answer, receiver.port):
        try:
            yield
        finally:
            receiver.over.set()
    receiver.over.clear()
