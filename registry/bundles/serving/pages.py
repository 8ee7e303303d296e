"""What keeps web pages out: a browser says which host it thinks it talks to, and whose page asks.

A page of a stranger can have its own name lead to this machine (DNS rebinding), and then talk to the server as if it were its own.
So a request has to name an address, which no name server can give away, this machine as itself, or a name the user allows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from .checks import Refusal

ANY = "*"

_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
"""What a browser sends: a name or an address, and perhaps a port; no user, path or zone."""


def require_ours(
    host: str | None, origin: str | None, *, hosts: Collection[str], origins: Collection[str]
) -> None:
    """Refuse what is for another host, or asked by a page of another origin.

    Args:
        host: the header of that name; None where there is none, as with no browser.
        origin: the header of that name.
        hosts: names that requests may be for, besides addresses and localhost; `*` for all.
        origins: pages that may ask besides our own; `*` for all.

    Raises:
        Refusal: it is.
    """
    if host is not None and not _is_ours(host, hosts):
        message = f"this server is not {host[:100]!r}: to be asked by that name, it has to be started with --allow-host"
        raise Refusal(403, message, code="unknown_host")
    if origin is None or ANY in origins or origin in origins:
        return
    if host is None or origin.partition("://")[2].lower() != host.lower():
        raise Refusal(403, "pages of other origins may not ask this server", code="foreign_origin")


def require_json(kind: str | None) -> None:
    """Refuse what is no JSON by its type: a page can post anything else to anybody without being allowed to.

    Raises:
        Refusal: it is.
    """
    if (kind or "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the Content-Type must be application/json")


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
