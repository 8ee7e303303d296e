"""A stub of an OCI registry."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "tester", "hunter-5f0e6c1d"


class StubRegistry(ThreadingHTTPServer):
    """What the distribution specification asks of a registry for pushes and pulls, in memory."""

    daemon_threads = True

    def __init__(self, password: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _StubHandler)
        self.password, self.failures, self.asked = password, Counter[str](), list[str]()
        self.blobs, self.manifests = dict[str, bytes](), dict[str, tuple[bytes, str]]()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve until the block ends; yield host and port."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{self.server_address[1]}"
        self.shutdown()
        thread.join()
        self.server_close()


class _StubHandler(BaseHTTPRequestHandler):
    server: StubRegistry

    def _handle(self) -> None:
        registry, url = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        registry.asked.append(self.command)
        if registry.failures[self.command] > 0:
            registry.failures[self.command] -= 1
            self._answer(503)
        elif registry.password not in (None, self.headers.get("Authorization")):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="tests"'})
        elif self.command == "POST":
            self._answer(202, {"Location": f"{url.path}1"})
        elif self.command == "PUT" and "/manifests/" in url.path:
            registry.manifests[url.path] = body, self.headers["Content-Type"]
            self._answer(201, {"Location": url.path})
        elif self.command == "PUT":
            [digest] = parse_qs(url.query)["digest"]
            true = f"sha256:{hashlib.sha256(body).hexdigest()}" == digest
            registry.blobs |= {digest: body} if true else {}
            self._answer(201 if true else 400, {"Location": url.path})
        elif url.path in registry.manifests:
            content, kind = registry.manifests[url.path]
            self._answer(200, {"Content-Type": kind}, content)
        elif (digest := url.path.rpartition("/")[2]) in registry.blobs:
            self._answer(200, {"Content-Type": "application/octet-stream"}, registry.blobs[digest])
        else:
            self._answer(200 if url.path == "/v2/" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running_registry(*, guarded: bool = False) -> Iterator[str]:
    """Run a registry and yield its host and port; a guarded one asks for a password."""
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with StubRegistry(f"Basic {basic}" if guarded else None).running() as host:
        yield host
