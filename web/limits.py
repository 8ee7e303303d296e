"""Limits of requests: hosts, slots and rates, and how large and slow a body may be."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusery.registry.remote.documents import MOST_BYTES
from fusery.registry.runtime.http_server import NAME, objection

from .answers import refusal
from .auth import HostError, TooMuchError, TooOftenError, TooSlowError, UnexpectedError

BODY = 65_536  # the most bytes of a form
JSON = 1 << 20  # the most bytes of an operation's JSON, such as the tensors of an adapter
PROGRAMS = "/api/v1/"
BLOBS, PACKAGES = "/api/v1/blobs/", "/api/v1/packages"

PATIENCE = 10  # seconds for a form or an operation's JSON to arrive
STALLED = 60  # seconds without a byte after which a transfer is ended
SLOWEST = 1_024  # the fewest bytes a second of a transfer, on average over `STALLED` seconds
WHOLE = 300  # seconds for a package to arrive
QUEUED = 60  # seconds that a request waits for a slot
WAITING = 256  # the most requests of one client that wait for a slot
_REMEMBERED = 10_000  # the most clients that a rate limit remembers


class RateLimit:
    """A token bucket for each client: `rate` requests a second, and `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, client: str) -> float:
        """Count a request and return 0; or return the seconds until one is allowed, and count nothing."""
        now = self._clock()
        with self._lock:
            left, at = self._left.pop(client, (float(self._burst), now))
            left = min(self._burst, left + (now - at) * self._rate)
            allowed = left >= 1
            self._left[client] = (left - 1 if allowed else left, now)
            while len(self._left) > _REMEMBERED:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


class FairQueue:
    """Slots for `most` requests at once, some of them for one client; the others wait in order.  It belongs to one event loop."""

    def __init__(self, most: int, slots_per_client: int) -> None:
        self._slots, self._each = asyncio.Semaphore(most), slots_per_client
        self._own: dict[str, asyncio.Semaphore] = {}
        self._requests: dict[str, int] = {}

    async def take(self, client: str) -> None:
        """Wait for a slot, which `release` gives back."""
        requests = self._requests.get(client, 0)
        if requests >= self._each + WAITING:
            raise TooOftenError("too many of your requests are waiting already", hint="ask for less at once")
        own = self._own.setdefault(client, asyncio.Semaphore(self._each))
        self._requests[client] = requests + 1
        try:
            async with asyncio.timeout(QUEUED):
                await own.acquire()
                try:
                    await self._slots.acquire()
                except BaseException:
                    own.release()
                    raise
        except BaseException as error:
            self._forget(client)
            if isinstance(error, TimeoutError):
                raise TooOftenError("the server has too much to do", hint="ask again soon") from error
            raise

    def release(self, client: str) -> None:
        """Give a slot back."""
        self._slots.release()
        self._own[client].release()
        self._forget(client)

    def _forget(self, client: str) -> None:
        self._requests[client] -= 1
        if not self._requests[client]:
            del self._requests[client], self._own[client]


def is_transfer(scope: Scope) -> bool:
    """Return whether a request sends or fetches a blob, which may take long."""
    return scope["method"] in ("GET", "PUT") and str(scope["path"]).startswith(BLOBS)


def is_streamed(scope: Scope) -> bool:
    """Return whether a request's body is read while it is handled, and not before."""
    is_package = str(scope["path"]).startswith(PACKAGES)
    return scope["method"] in ("POST", "PUT") and (is_transfer(scope) or is_package)


def largest(scope: Scope) -> int:
    """Return the most bytes of a request's body; a blob's are limited where it is stored."""
    if is_streamed(scope):
        return sys.maxsize if is_transfer(scope) else MOST_BYTES
    return JSON if scope["method"] == "POST" and str(scope["path"]).startswith(PROGRAMS) else BODY


class BodyLimit:
    """Refuses too large bodies, and reads small ones before the request is handled: slow senders hold no slot."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        most, come = largest(scope), 0
        too_much = TooMuchError(f"the request is larger than {most:,} bytes")

        async def counted() -> Message:
            nonlocal come
            message = await receive()
            come += len(message.get("body", b""))
            if come > most:
                raise too_much
            return message

        length = Headers(scope=scope).get("content-length", "0")
        try:
            if not length.isdecimal() or int(length) > most:
                raise too_much
            if is_streamed(scope):
                await self._app(scope, counted, send)
                return
            async with asyncio.timeout(PATIENCE):
                body, more = b"", True
                while more:
                    message = await counted()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TooMuchError as error:
            await refusal(Request(scope), error)(scope, receive, send)
        except TimeoutError:
            slow = TooSlowError(f"the request did not arrive within {PATIENCE} s")
            await refusal(Request(scope), slow)(scope, receive, send)
        else:
            left = [{"type": "http.request", "body": body, "more_body": False}]

            async def replayed() -> Message:
                return left.pop() if left else await receive()

            await self._app(scope, replayed, send)


LOG = logging.getLogger(__name__)
AT_ONCE = (8, 4)  # the most requests at once, of all clients and of one
# the same of blobs and of packages, which take long and do not delay pages
TRANSFERS, OF_PACKAGES = ((32, 8), (4, 1))

_WITHOUT_SLOT = frozenset({"/style.css", "/sign-in"})

HEADERS = {
    # No script, no request to another host, no frame around a page.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: browsers then say `Origin: null` of our own forms too.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The headers of every response."""


class Guard:
    """Adds headers to every response, which shared caches must not keep; refuses other hosts and other sites' pages."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "private, no-cache")
                headers.add_vary_header("Accept, Cookie, Authorization")
                if message["status"] == 401:
                    headers["WWW-Authenticate"] = "Bearer"
            await send(message)

        headers = Headers(scope=scope)
        if refused := objection(headers, self._hosts):
            error = HostError(str(refused), hint="--allow-host NAME, where that is its name")
        elif headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            scope["method"] not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
        ):  # it sends more than a reader who follows a link
            error = HostError("a page of another site sent this request")
        else:
            await self._app(scope, receive, sent)
            return
        await refusal(Request(scope), error)(scope, receive, sent)


class Slots:
    """Handles requests as slots become free, and answers every error with a message instead of a traceback."""

    def __init__(self, app: ASGIApp, client_key: Callable[[Request], str]) -> None:
        self._app, self._client_key = app, client_key
        self._pages, self._transfers = FairQueue(*AT_ONCE), FairQueue(*TRANSFERS)
        self._packages = FairQueue(*OF_PACKAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["path"] in _WITHOUT_SLOT:
            await self._handle(scope, receive, send, lambda: None)
            return
        queue = self._transfers if is_transfer(scope) else self._pages
        if str(scope["path"]).startswith(PACKAGES):
            queue = self._packages
        client = self._client_key(Request(scope))
        try:
            await queue.take(client)
        except TooOftenError as error:
            await refusal(Request(scope), error)(scope, receive, send)
        else:
            await self._handle(scope, receive, send, partial(queue.release, client))

    async def _handle(self, scope: Scope, receive: Receive, send: Send, release: Callable[[], None]) -> None:
        streams, begun = is_transfer(scope), False

        async def sent(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                # A page is complete before any of it is sent: slow readers hold no slot.
                if not streams:
                    release()
            async with asyncio.timeout(STALLED if streams else None):
                await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            LOG.info("%s %.200r: client disconnected", scope["method"], scope["path"])
        except Exception as problem:  # noqa: BLE001 -- every client gets a message
            kind, request_id = type(problem).__name__, scope.get(NAME)
            LOG.error("%s %.200r: %s (request %s)", scope["method"], scope["path"], kind, request_id)
            if not begun:
                error = UnexpectedError("these records cannot be shown", hint="fusery audit")
                await refusal(Request(scope), error)(scope, receive, sent)
        finally:
            if streams or not begun:
                release()
