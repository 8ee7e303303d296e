"""The notifier `unix`: HTTP over a socket of this machine, `unix:///run/ci.sock`."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping

from fusery.registry.webhooks.addresses import Target
from fusery.registry.webhooks.sending import Answer


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def send(target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float) -> Answer:
    """Post a body to the socket, and return what came of it."""
    if not private:  # a socket is this machine's, so whoever adds the webhook has to say so
        return Answer("a socket is private: add the webhook with --allow-private")
    began = time.monotonic()
    connection = _Connection(target.path.partition("?")[0], seconds)
    try:
        connection.request("POST", "/", body, {"Content-Type": "application/json", **headers})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        late = time.monotonic() - began >= seconds
        return Answer(f"no answer within {seconds:g} s" if late else f"not reached: {type(error).__name__}")
    finally:
        connection.close()
    return Answer() if 200 <= status < 300 else Answer(f"it answered {status}", gone=status == 410)
