"""What keeps pages of strangers out, and our own from doing what they are not for: the host check, and headers on every answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from starlette.datastructures import Headers as Sent
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusery.registry.errors import BadInputError, RegistryError
from fusery.registry.server.hosts import objection
from fusery.registry.server.request_ids import NAME
from fusery.storage.errors import FuseryError

from .answers import UNEXPECTED, refusal
from .limits import STALLED, brings_much, is_package, is_transfer
from .turns import Turns
from .visitors import HostError, TooOftenError

LOG = logging.getLogger(__name__)

AT_ONCE = (8, 4)
"""Requests that are worked on, of all and of one asker: a page that many ask for does not fill the memory."""

TRANSFERS, PACKAGES = (32, 8), (4, 1)
"""Blobs that are on their way, and packages that are looked at or made: these take time, and are not in the way of pages."""

_AT_ALL_TIMES = frozenset({"/style.css", "/sign-in"})
"""Addresses that take nobody's turn: what they answer costs nothing."""

Asker = Callable[[Request], str]
"""From a request to what tells its sender from others, before it is known who that is."""

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy: no script, no request to anybody else, no frame around a page."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: browsers then say `Origin: null` of our own forms too.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer, whatever it is."""


class Headers:
    """Puts `HEADERS` on every answer, and keeps answers out of caches that others share."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "private, no-cache")
                headers.add_vary_header("Accept, Cookie, Authorization")
                if message["status"] == 401:
                    headers["WWW-Authenticate"] = "Bearer"
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


class OwnHost:
    """Refuses what is for another host, or asked by a page of another origin, in the form that all refusals have."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be passed on."""
        found = objection(Sent(scope=scope), self._hosts) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        error = HostError(
            found.document["error"]["message"], hint="--allow-host NAME, where that is its name"
        )
        await refusal(Request(scope), error)(scope, receive, send)


class UnexpectedError(RegistryError):
    """Something that fusery does not know: an error of its own, or a database edited by other means."""

    code = UNEXPECTED


class Caught:
    """Answers a few requests at a time, none that a page of another site makes, and every error with a sentence."""

    def __init__(self, app: ASGIApp, asker: Asker) -> None:
        self._app, self._asker = app, asker
        self._turns, self._transfers, self._packages = Turns(*AT_ONCE), Turns(*TRANSFERS), Turns(*PACKAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens."""
        if scope["type"] != "http":
            return
        if _of_another_site(scope["method"], Sent(scope=scope)):
            error: FuseryError = BadInputError("pages of other sites may not ask for this")
            await refusal(Request(scope), error, 403)(scope, receive, send)
            return
        if scope["path"] in _AT_ALL_TIMES:
            await self._answer(scope, receive, send, lambda: None)
            return
        turns = (
            self._transfers if is_transfer(scope) else self._packages if is_package(scope) else self._turns
        )
        asker = self._asker(Request(scope))
        try:
            if turns.has_one(asker) or brings_much(scope):
                await turns.take(asker)
            else:
                receive = await _waited(turns, asker, receive)
        except TooOftenError as much:
            await refusal(Request(scope), much)(scope, receive, send)
            return
        except ClientDisconnect:
            LOG.info("%s %.200r: client disconnected while waiting", scope["method"], scope["path"])
            return
        await self._answer(scope, receive, send, partial(turns.release, asker))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, release: Callable[[], None]) -> None:
        lasting = is_transfer(scope)
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                # A page is made as a whole before any of it goes: who reads it slowly takes nobody's turn.
                if not lasting:
                    release()
            async with asyncio.timeout(STALLED if lasting else None):
                await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            LOG.info("%s %.200r: client disconnected", scope["method"], scope["path"])
        except Exception as problem:  # noqa: BLE001 -- whatever it is, who asks gets a sentence, and nobody a traceback
            LOG.error(
                "%s %.200r: %s (request %s)",
                scope["method"],
                scope["path"],
                type(problem).__name__,
                scope.get(NAME),
            )
            if not begun:
                error = UnexpectedError("these records cannot be shown", hint="fusery audit")
                await refusal(Request(scope), error)(scope, receive, sent)
        finally:
            if lasting or not begun:
                release()


async def _waited(turns: Turns, asker: str, receive: Receive) -> Receive:
    """Wait for a turn with a request that has come as a whole; return how it is received then.

    Raises:
        ClientDisconnect: its sender hung up meanwhile: nothing is to be done for nobody.
        TooOftenError: as `Turns.take` has it.
    """
    body = await receive()
    gone, turn = asyncio.ensure_future(receive()), asyncio.ensure_future(turns.take(asker))
    try:
        await asyncio.wait({gone, turn}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done() and gone.result()["type"] == "http.disconnect":
            raise ClientDisconnect
        await turn
    except BaseException:
        gone.cancel()
        if not turn.cancel() and not turn.cancelled() and turn.exception() is None:
            turns.release(asker)
        raise
    left = [body]

    async def received() -> Message:
        return left.pop() if left else await gone

    return received


def _of_another_site(method: str, headers: Sent) -> bool:
    """Tell whether a page of another site asks for more than that a reader follows a link to here."""
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    return method not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
