"""One attempt to deliver: a POST to an address that was looked at, within a time that includes everything."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from .addresses import Target, UnreachableError, addresses_of

SECONDS = 10.0
"""From looking the host up until the answer's first lines are there."""

GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt.

    Attributes:
        error: what went wrong, in few words and without the URL; empty if the receiver has taken it.
        gone: the receiver says that nothing is to be sent to it any more.
    """

    error: str = ""
    gone: bool = False


def post(
    target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float = SECONDS
) -> Answer:
    """Send a body once, and return what came of it.

    No proxy of the environment is used and no redirection followed: both would lead where nobody has looked.  Of the answer only the
    status is read.

    Args:
        target: where to.
        headers: besides those of the content.
        body: JSON.
        private: addresses of private networks may be reached.
        seconds: to take at most.
    """
    with _Deadline(seconds) as deadline:
        try:
            return _answer(_asked(target, headers, body, private, deadline))
        except UnreachableError as error:
            return Answer(str(error))
        except ssl.SSLCertVerificationError as error:
            return Answer(f"its certificate is not good: {error.verify_message}"[:200])
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = deadline.is_over or isinstance(error, TimeoutError)
            return Answer(f"no answer within {seconds:g} s" if late else _reason(error))


class _Deadline:
    """Hangs up when the time is over: a receiver that sends a byte now and then would outlast any limit of a single read."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._watched: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._hang_up)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self._end - time.monotonic()

    @property
    def is_over(self) -> bool:
        """The time is over."""
        return self.left <= 0

    def watch(self, connection: socket.socket) -> None:
        """Hang up on this connection then."""
        self._watched = connection
        if self.is_over:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._watched is not None:
            with contextlib.suppress(OSError):
                # Of TLS, too, the connection below: whoever is in the middle of reading sees its end.
                socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def _asked(
    target: Target, headers: Mapping[str, str], body: bytes, private: bool, deadline: _Deadline
) -> int:
    """Send the request, and return the status of the answer."""
    addresses = addresses_of(target.host, target.port, private=private, seconds=deadline.left)
    kind = http.client.HTTPSConnection if target.secure else http.client.HTTPConnection
    connection = kind(target.host, target.port)
    with _connected(addresses, target.port, deadline) as plain:
        deadline.watch(plain)
        with _secured(plain, target.host, deadline) if target.secure else plain as line:
            # The library connects by itself only where there is no connection yet.
            connection.sock = line
            said = {"Content-Type": "application/json", "User-Agent": "fusery", "Connection": "close"}
            connection.request("POST", target.path, body, {**said, **headers})
            with connection.getresponse() as answer:
                return answer.status


def _secured(plain: socket.socket, host: str, deadline: _Deadline) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    line = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    try:
        deadline.watch(line)
        line.do_handshake()
    except BaseException:
        line.close()
        raise
    return line


def _connected(addresses: list[str], port: int, deadline: _Deadline) -> socket.socket:
    """Connect to the first of some addresses that takes it."""
    failure: OSError = TimeoutError()
    for address in addresses:
        if deadline.is_over:
            break
        try:
            return socket.create_connection((address, port), timeout=deadline.left)
        except OSError as error:
            failure = error
    raise failure


def _answer(status: int) -> Answer:
    if 200 <= status < 300:
        return Answer()
    if status == GONE:
        return Answer("it answered 410: it is gone", gone=True)
    if 300 <= status < 400:
        return Answer(f"it answered {status}, and redirections are not followed")
    return Answer(f"it answered {status}")


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at its port"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError):
        return "it closed the connection"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS"
    if isinstance(error, http.client.HTTPException | ValueError):
        return "what it answered is not HTTP"
    return f"it was not reached: {type(error).__name__}"
