"""OCI registries for tests: a stub, and Debian's `docker-registry` (CNCF Distribution).  Import as `image_registry`."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ports import free_port

USER, PASSWORD = "tester", "hunter-5f0e6c1d"
_BCRYPT = "$2b$04$DxRn47HF/KiFwbTWwMapDuhoNLFom83diY9Dq3xRlOjDGq0JD23Du"


class StubRegistry(ThreadingHTTPServer):
    """What the distribution specification asks of a registry for pushes and pulls, in memory.

    Attributes:
        failures: how often each method still answers 503.
        asked: the methods of all requests.
        password: the value of `Authorization` that requests need; None for none.
        blobs: by digest.
        manifests: content and media type by path.
    """

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
def running_registry(folder: Path, *, guarded: bool = False) -> Iterator[str]:
    """Run a registry and yield its host and port; a guarded one asks for a password.

    It is Debian's `docker-registry` with its data in the folder where that is installed, and a stub elsewhere.
    """
    command, port = shutil.which("docker-registry"), free_port()
    if command is None:
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        with StubRegistry(f"Basic {basic}" if guarded else None).running() as host:
            yield host
        return
    folder.mkdir(parents=True, exist_ok=True)
    auth = ""
    if guarded:
        (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([command, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        except urllib.error.HTTPError:
            return  # it wants a password, and answers
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the registry did not answer")
