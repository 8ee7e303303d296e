"""A server that wants passwords: it keeps every byte that it is sent, and answers so that a client goes on to its secrets."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_IN_CLEAR = b"R\x00\x00\x00\x08\x00\x00\x00\x03"
"""PostgreSQL's AuthenticationCleartextPassword."""

_NO_ENCRYPTION = (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x00\x00\x00\x08\x04\xd2\x16\x30")
"""What libpq asks first: SSLRequest and GSSENCRequest.  `N` means no, and libpq goes on without."""


class Listener:
    def __init__(self) -> None:
        self.connections, self.heard = 0, b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        client.settimeout(10)
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                with self._lock:
                    self.heard += data
                if data.startswith(_NO_ENCRYPTION):
                    client.sendall(b"N")
                elif b"HTTP/1." in data:
                    client.sendall(_REFUSED)
                    return
                elif data[4:8] == b"\x00\x03\x00\x00":
                    client.sendall(_IN_CLEAR)
