from __future__ import annotations

import shutil
import socketserver
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fusery_example.unix_socket import send

from fusery.registry.webhooks.addresses import parse_url
from fusery.testing.notifiers import BODY, HEADERS, NotifierContract, Receiving


class Socket(Receiving):
    """A server at a socket."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/s"
        self.arrived: list[tuple[Mapping[str, str], bytes]] = []
        self.over = threading.Event()
        self.silent = False
        receiving = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiving.silent:
                    receiving.over.wait(20)
                    return
                receiving.arrived.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def get_request(self) -> tuple[object, tuple[str, int]]:
                return super().get_request()[0], ("socket", 0)

        self.server = Server(str(folder / "s"), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def received(self) -> list[tuple[Mapping[str, str], bytes]]:
        return self.arrived

    def leave(self) -> None:
        if self.thread.is_alive():
            self.over.set()
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()

    def stop_answering(self) -> None:
        self.silent = True


class TestUnixSocket(NotifierContract):
    notifier = staticmethod(send)

    @pytest.fixture
    def receiving(self) -> Iterator[Socket]:
        folder = Path(tempfile.mkdtemp())  # the path of a socket has a hundred characters at most
        made = Socket(folder)
        yield made
        made.leave()
        shutil.rmtree(folder)

    def test_a_socket_is_private(self, receiving: Socket) -> None:
        answer = send(parse_url(receiving.url), HEADERS, BODY, private=False, seconds=5.0)
        assert answer.error and receiving.received() == []
