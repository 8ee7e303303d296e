"""Common parts of fusery's HTTP servers: host names (against DNS rebinding), sockets, request ids, limited connections."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import resource
import signal
import socket
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS

from .errors import AddressError, Refusal

ANY = "*"

_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
"""`Host` as browsers send it: a name or an address, and perhaps a port; no user, path or zone."""


class HostCheck:
    """Refuses requests for other hosts and from pages of other origins, except for `/health`."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "http" and scope["path"] != "/health":
            refusal = objection(Headers(scope=scope), self._hosts)
            if refusal is not None:
                await JSONResponse(refusal.document, refusal.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def objection(headers: Headers, hosts: Collection[str]) -> Refusal | None:
    """Return the refusal of a request for another host or from another origin; None if it is accepted."""
    host, origin = headers.get("host"), headers.get("origin")
    if host is not None and not _is_ours(host, hosts):
        message = f"this server is not {host[:100]!r}: to be asked by that name, it has to be started with --allow-host"
        return Refusal(403, message, code="unknown_host")
    same = headers.get("sec-fetch-site") == "same-origin"  # from the browser itself: a proxy may change Host
    if origin is not None and not (host and (same or origin.partition("://")[2].lower() == host.lower())):
        return Refusal(403, "pages of other origins may not ask this server", code="foreign_origin")
    return None


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    if ANY in hosts:
        return True
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = (match["name"] or "").lower()
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.IPv6Address(match["v6"]) if match["v6"] else ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


FILES = 4096  # open files, one for each connection; macOS allows 256 by default


def bind(host: str, port: int) -> socket.socket:
    """Bind an address, before the model is loaded; and raise the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a listener."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


NAME = "x-request-id"  # name of the header, and of the key in a request's scope

_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class RequestIds:
    """Adds an id to each response; a client's own id is kept if it is valid."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, and add the header to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(NAME, "")
        scope[NAME] = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[NAME] = scope[NAME]
            await send(message)

        await self._app(scope, receive, sent)


HEAD_SECONDS = 10.0  # until the head of a request, from the connection or the previous response
STALL_SECONDS = 30.0  # until a client reads its response
IDLE_CONNECTIONS = 256  # connections without a request; beyond, the oldest is closed

Idle = dict["Connection", None]


class Connection(H11Protocol):
    """uvicorn's connection, closed if the client does not send a request or read the response in time."""

    def __init__(self, idle: Idle, **options: Any) -> None:
        super().__init__(**options)
        self._idle = idle
        self._begun: Any = None  # the last request
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._forget()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the timer when the head of a request is complete."""
        super().data_received(data)
        self._note_request()

    def on_response_complete(self) -> None:
        """Wait for the next request; the rest of the last one's body counts as waiting."""
        super().on_response_complete()
        if not self._note_request() and not self.transport.is_closing():
            self._await_head()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the timer."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _await_head(self) -> None:
        self._forget()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        self._idle[self] = None
        if len(self._idle) > IDLE_CONNECTIONS:
            oldest = next(iter(self._idle))
            oldest._forget()
            oldest.transport.abort()

    def _note_request(self) -> bool:
        if self.cycle is self._begun:
            return False
        self._begun = self.cycle
        self._forget()
        return True

    def _forget(self) -> None:
        self._idle.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class HttpServer(uvicorn.Server):
    """uvicorn's server: connections are limited, and signals that this process was started to ignore stay ignored."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None], **options: Any) -> None:
        connection = cast("type[asyncio.Protocol]", partial(Connection, {}))  # uvicorn only calls it
        options |= {"log_config": None, "log_level": "warning", "access_log": False, "server_header": False}
        super().__init__(uvicorn.Config(app, http=connection, **options))
        self._ready = ready
        self._ignored = {number for number in HANDLED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then call `ready`."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End at a signal that was not ignored; uvicorn sets its handler for all."""
        if sig not in self._ignored:
            super().handle_exit(sig, frame)
