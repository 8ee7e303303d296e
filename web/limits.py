"""How much one asker may ask: requests in a time, and bytes of a body."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import refusal
from .visitors import TooMuchError

BODY = 65_536
"""Bytes of a form, or of what a program says in JSON."""

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


class BodyLimit:
    """Refuses a body that is longer than any form: by what its sender says of it, or once so much has come."""

    def __init__(self, app: ASGIApp, most: int = BODY) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdecimal() or int(said) > self._most:
            await self._refuse(scope, receive, send)
            return
        come = 0

        async def received() -> Message:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            if come > self._most:
                raise TooMuchError(f"a request may have {self._most:,} bytes, and this one has more")
            return message

        await self._app(scope, received, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooMuchError(f"a request may have {self._most:,} bytes, and this one has more")
        await refusal(Request(scope), error)(scope, receive, send)
