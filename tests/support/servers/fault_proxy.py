"""An HTTP proxy that fails on purpose, between a store and its server."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from stub_server import StubHandler, raw_server, serving_stub


@dataclass
class CuttingProxy:
    endpoint: str
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    flip: int | None = None
    sent: int = 0
    back: int = 0


@contextmanager
def cutting_proxy(upstream: str) -> Iterator[CuttingProxy]:
    parts = urlsplit(upstream)
    proxy = CuttingProxy("")

    def connected(client: socket.socket) -> None:
        with socket.create_connection((str(parts.hostname), parts.port or 80)) as server:
            back = threading.Thread(target=_pass, args=(proxy, server, client, False), daemon=True)
            back.start()
            _pass(proxy, client, server, True)
            back.join()

    with raw_server(connected) as port:
        proxy.endpoint = f"http://127.0.0.1:{port}"
        yield proxy


def _pass(proxy: CuttingProxy, source: socket.socket, target: socket.socket, up: bool) -> None:
    passed, cuts = 0, proxy.up if up else proxy.down
    with suppress(OSError):
        while data := source.recv(65_536):
            if up and proxy.flip is not None and passed <= proxy.flip < passed + len(data):
                place = proxy.flip - passed
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            if cuts and passed + len(data) > cuts[0]:
                end = cuts.pop(0) - passed
                target.sendall(data[: max(0, end)])
                for each in (source, target):
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                break
            target.sendall(data)
            passed += len(data)
            if up:
                proxy.sent += len(data)
            else:
                proxy.back += len(data)
    # Also where the connection was reset, as a server's is that was killed: or the other side waits for ever.
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Fault(Enum):
    ERROR_500 = "500"
    ERROR_503 = "503"
    ERROR_403 = "403"
    NO_BUCKET = "404"
    DROP = "the connection is closed before the request is passed on"
    HANG = "no answer"
    LOST = "the request is passed on and its answer lost"
    LOST_500 = "the request is passed on and a 500 sent for an answer"
    SHORT = "half of the body, then the end of the connection"
    FLIP = "the first bit of the body flipped"
    FLIP_ANYWHERE = "any bit of the body flipped"
    SLOW = "the answer takes its time"


Rule = Callable[[str, str], Fault | None]
"""Given method and path of a request, which fault it meets."""


def always(method: str, part: str, fault: Fault) -> Rule:
    return lambda seen, path: fault if seen == method and part in path else None


def times(count: int, method: str, part: str, fault: Fault) -> Rule:
    left = [count]

    def rule(seen: str, path: str) -> Fault | None:
        if seen != method or part not in path or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    return rule


@dataclass
class FaultProxy:
    endpoint: str
    rule: Rule = field(default=lambda _method, _path: None)
    seen: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    google: bool = False
    """Translate requests of Google's XML API, which are those of S3 but for the names of some headers."""


_CHANCE = random.Random(1)
_CODES = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 404: "NoSuchBucket"}


class _Handler(StubHandler):
    proxy: FaultProxy
    upstream: str

    def handle_any(self) -> None:
        body = self.body()
        fault = self.proxy.rule(self.command, self.path)
        self.proxy.seen.append((self.command, self.path))
        if fault is Fault.HANG:
            self.proxy.over.wait(60)
        if fault in (Fault.HANG, Fault.DROP):
            self.hang_up()
        elif fault in (Fault.ERROR_500, Fault.ERROR_503, Fault.ERROR_403, Fault.NO_BUCKET):
            self.refuse(int(fault.value))
        else:
            self.pass_on(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def pass_on(self, body: bytes, fault: Fault | None) -> None:
        headers = {key.lower(): value for key, value in self.headers.items() if key.lower() != "expect"}
        if self.proxy.google:
            headers.pop("authorization", None)
            if headers.pop("x-goog-if-generation-match", "") == "0":
                headers["if-none-match"] = "*"
            if source := headers.pop("x-goog-copy-source", ""):
                headers["x-amz-copy-source"] = source
        with closing(http.client.HTTPConnection(self.upstream, timeout=30)) as upstream:
            upstream.request(self.command, self.path, body, headers)
            reply = upstream.getresponse()
            data = reply.read()
        if fault is Fault.LOST:
            self.hang_up()
            return
        if fault is Fault.LOST_500:
            self.refuse(500)
            return
        if fault is Fault.FLIP:
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault is Fault.FLIP_ANYWHERE and data:
            flipped = bytearray(data)
            flipped[_CHANCE.randrange(len(data))] ^= 1 << _CHANCE.randrange(8)
            data = bytes(flipped)
        if fault is Fault.SLOW:
            self.proxy.over.wait(0.5)
        self.send_response(reply.status)
        for key, value in reply.getheaders():
            if key.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(key, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if fault is Fault.SHORT:
            self.wfile.write(data[: len(data) // 2])
            self.hang_up()
        else:
            self.wfile.write(data)

    def refuse(self, status: int) -> None:
        data = f"<Error><Code>{_CODES[status]}</Code><Message>on purpose</Message></Error>".encode()
        self.reply(status, data, Content_Type="application/xml")

    def hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """Run a proxy before `endpoint`; set its `rule` to make it fail."""
    made = FaultProxy("")

    class Handler(_Handler):
        upstream, proxy = urlsplit(endpoint).netloc, made

    with serving_stub(Handler) as made.endpoint:
        try:
            yield made
        finally:
            made.over.set()
