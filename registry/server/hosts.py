"""What keeps web pages out: a browser says which host it thinks it talks to, and whose page asks.

A page of a stranger can have its own name lead to this machine (DNS rebinding), and then talk to the server as if it were its own.
So a request has to name an address, which no name server can give away, this machine as itself, or a name the user allows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import Refusal

ANY = "*"

_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
"""What a browser sends: a name or an address, and perhaps a port; no user, path or zone."""


class HostCheck:
    """Refuses what is for another host or asked by a page of another origin; `/health` answers everybody."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str] = ()) -> None:
        """Wrap an application.

        Args:
            app: what it protects.
            hosts: names that requests may be for, besides addresses and localhost; `*` for all.
            origins: pages that may ask besides our own; `*` for all.
        """
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be passed on."""
        if scope["type"] == "http" and scope["path"] != "/health":
            refusal = objection(Headers(scope=scope), self._hosts, self._origins)
            if refusal is not None:
                await JSONResponse(refusal.document, refusal.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def objection(headers: Headers, hosts: Collection[str], origins: Collection[str] = ()) -> Refusal | None:
    """Return why a request is none for this server; None if it is.

    Args:
        headers: of the request.
        hosts: names that it may be for, besides addresses and localhost; `*` for all.
        origins: pages that may ask besides our own; `*` for all.
    """
    host, origin = headers.get("host"), headers.get("origin")
    if host is not None and not _is_ours(host, hosts):
        message = f"this server is not {host[:100]!r}: to be asked by that name, it has to be started with --allow-host"
        return Refusal(403, message, code="unknown_host")
    if origin is None or ANY in origins or origin in origins:
        return None
    if host is None or origin.partition("://")[2].lower() != host.lower():
        return Refusal(403, "pages of other origins may not ask this server", code="foreign_origin")
    return None


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    if ANY in hosts:
        return True
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found["name"] or "").lower()
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        if found["v6"]:
            ipaddress.IPv6Address(found["v6"])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True
