"""How much one asker may ask: requests in a time, and bytes of a body."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusery.registry.exchange.wire import MOST_BYTES

from .answers import refusal
from .visitors import TooMuchError, TooSlowError

BODY = 65_536
"""Bytes of a form."""

JSON = 1 << 20
"""Bytes of a program's JSON: the tensors of an adapter, or a signature over many files."""

PROGRAMS = "/api/v1/"
"""Where programs ask."""

BLOBS, PACKAGES = "/api/v1/blobs/", "/api/v1/packages"
"""Where bytes are, and packages of records."""

PATIENCE = 10
"""Seconds for a form, or for what a program says in JSON, to come as a whole."""

STALLED = 60
"""Seconds for which a transfer may stand still."""

SLOWEST = 1_024
"""Bytes a second that a transfer brings at least, over any such time."""

WHOLE = 300
"""Seconds for a package to come."""

_KNOWN = 10_000
"""Askers that are remembered."""


class Pace:
    """So many requests in a second for each asker, and some more at once: a bucket that fills again."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, asker: str) -> float:
        """Count a request, and return 0; or return the seconds until one may be asked, and count nothing."""
        now = self._clock()
        with self._lock:
            left, at = self._left.pop(asker, (float(self._burst), now))
            left = min(self._burst, left + (now - at) * self._rate)
            allowed = left >= 1
            self._left[asker] = (left - 1 if allowed else left, now)
            while len(self._left) > _KNOWN:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


def is_transfer(scope: Scope) -> bool:
    """Tell whether a request moves a blob, which takes as long as its connection lets it."""
    return scope["method"] in ("GET", "PUT") and str(scope["path"]).startswith(BLOBS)


def is_package(scope: Scope) -> bool:
    """Tell whether a request brings a package, or asks for one."""
    return str(scope["path"]).startswith(PACKAGES)


def brings_much(scope: Scope) -> bool:
    """Tell whether what a request brings is read while it is worked on, and not before."""
    return scope["method"] in ("POST", "PUT") and (is_transfer(scope) or is_package(scope))


def most_of(scope: Scope) -> int:
    """Return the bytes that the body of a request may have; how large a blob may be is for who stores it."""
    if scope["method"] == "PUT" and is_transfer(scope):
        return sys.maxsize
    if brings_much(scope):
        return MOST_BYTES
    return JSON if scope["method"] == "POST" and str(scope["path"]).startswith(PROGRAMS) else BODY


class BodyLimit:
    """Refuses a body that is longer than any form: by what its sender says of it, or once so much has come.

    What is small has come as a whole before anybody is bothered with it: who sends slowly takes nobody's turn.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = most_of(scope)
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdecimal() or int(said) > most:
            await refusal(Request(scope), _too_much(most))(scope, receive, send)
            return
        if brings_much(scope):
            await self._app(scope, _counted(receive, most), send)
            return
        try:
            async with asyncio.timeout(PATIENCE):
                body = await _whole(_counted(receive, most))
        except TooMuchError as error:
            await refusal(Request(scope), error)(scope, receive, send)
        except TimeoutError:
            slow = TooSlowError(f"this request did not come within {PATIENCE} s")
            await refusal(Request(scope), slow)(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _again(body, receive), send)


def _counted(receive: Receive, most: int) -> Receive:
    """Return what receives no more than so many bytes."""
    come = 0

    async def received() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        if come > most:
            raise _too_much(most)
        return message

    return received


async def _whole(receive: Receive) -> bytes | None:
    """Return a body; None where its sender went."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body that was received before."""
    left = [body]

    async def received() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return received


def _too_much(most: int) -> TooMuchError:
    return TooMuchError(f"a request may have {most:,} bytes, and this one has more")
