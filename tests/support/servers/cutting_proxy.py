"""A proxy that cuts connections, or changes a byte, wherever a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class CuttingProxy:
    """What it does, and what it has passed on."""

    endpoint: str
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    flip: int | None = None
    sent: int = 0
    back: int = 0


@contextmanager
def cutting_proxy(upstream: str) -> Iterator[CuttingProxy]:
    """Run a proxy before a server."""
    parts = urlsplit(upstream)
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = CuttingProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=_serve, args=(listener, proxy, (parts.hostname, parts.port)), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.close()


def _serve(listener: socket.socket, proxy: CuttingProxy, upstream: tuple[str | None, int | None]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_connected, args=(proxy, client, upstream), daemon=True).start()


def _connected(proxy: CuttingProxy, client: socket.socket, upstream: tuple[str | None, int | None]) -> None:
    place = str(upstream[0]), int(upstream[1] or 0)
    with suppress(OSError), client, socket.create_connection(place) as server:
        back = threading.Thread(target=_pass, args=(proxy, server, client, False), daemon=True)
        back.start()
        _pass(proxy, client, server, True)
        back.join()


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
