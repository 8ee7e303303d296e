"""What keeps pages of strangers out, and our own from doing what they are not for: the host check, and headers on every answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from starlette.datastructures import Headers as Sent
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusery.registry.errors import BadInputError, RegistryError
from fusery.registry.server.hosts import objection
from fusery.storage.errors import FuseryError

from .answers import UNEXPECTED, refusal
from .limits import STALLED, is_package, is_transfer
from .visitors import HostError

LOG = logging.getLogger(__name__)

AT_ONCE = 8
"""Requests that are worked on; others wait for their turn, so that a page that many ask for does not fill the memory."""

TRANSFERS, PACKAGES = 32, 2
"""Blobs that are on their way, and packages that are looked at: these take time, and are not in the way of pages."""

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

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._turns = app, asyncio.Semaphore(AT_ONCE)
        self._transfers, self._packages = asyncio.Semaphore(TRANSFERS), asyncio.Semaphore(PACKAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens."""
        if scope["type"] != "http":
            return
        lasting = is_transfer(scope)
        turns = self._transfers if lasting else self._packages if is_package(scope) else self._turns
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                # A page is made as a whole before any of it goes: who reads it slowly takes nobody's turn.
                if not lasting:
                    turns.release()
            async with asyncio.timeout(STALLED if lasting else None):
                await send(message)

        if _of_another_site(scope["method"], Sent(scope=scope)):
            error: FuseryError = BadInputError("pages of other sites may not ask for this")
            await refusal(Request(scope), error, 403)(scope, receive, send)
            return
        await turns.acquire()
        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            LOG.info("%s %.200s: hung up", scope["method"], scope["path"])
        except Exception as problem:  # noqa: BLE001 -- whatever it is, who asks gets a sentence, and nobody a traceback
            LOG.error("%s %.200s: %s", scope["method"], scope["path"], type(problem).__name__)
            if not begun:
                error = UnexpectedError("these records cannot be shown", hint="fusery audit")
                await refusal(Request(scope), error)(scope, receive, sent)
        finally:
            if lasting or not begun:
                turns.release()


def _of_another_site(method: str, headers: Sent) -> bool:
    """Tell whether a page of another site asks for more than that a reader follows a link to here."""
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    return method not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
