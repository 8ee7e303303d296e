"""Where a webhook may go: URLs without credentials, and hosts that are not in a private network unless that is allowed."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fusery.storage.plugins import find_plugin
from fusery.storage.secrets import without_credentials

from ..errors import BadInputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST = 2000
PORTS = {"http": 80, "https": 443}
"""The schemes that fusery sends to itself, and their ports."""
GROUP: Literal["fusery.notifiers"] = "fusery.notifiers"
_HINT = "write it as https://hooks.example.org/fusery"
_SPEAKERS = "install the plugin, or use http or https; fusery doctor lists those that are installed"
_GLOBAL = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "100.64.0.0/10", "3fff::/20")
]
"""What Python's tables of some versions call public: protocol assignments with a cloud's metadata service, relays, Azure's
platform, carriers' networks, documentation."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TEREDO = ipaddress.ip_network("2001::/32")


class UnreachableError(Exception):
    """A host has no address, or none that may be reached; the text says which, in few words."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart.

    Attributes:
        url: all of it.
        secure: it is https.
        host: name or address of the receiver, without brackets; of a plugin's URL it may be empty.
        port: of the receiver; 0 where the URL of a plugin says none.
        path: with the query.
    """

    url: str
    secure: bool
    host: str
    port: int
    path: str

    @property
    def scheme(self) -> str:
        """What stands before the host."""
        return self.url.partition(":")[0].lower()


def parse_url(text: str) -> Target:
    """Read the URL of a webhook: http or https, or of a scheme that a plugin sends to.

    Raises:
        BadInputError: it is none, or has a user, a password or a token in it, which would be on record then.
        PluginError: several plugins send to its scheme.
    """
    url = text.strip()
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadInputError(
            "the URL of a webhook has printable ASCII characters, and at most 2000 of them", hint=_HINT
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInputError("the URL of a webhook is none", hint=_HINT) from error
    own = parts.scheme in PORTS
    if not own and url[len(parts.scheme) :].startswith("://") and find_plugin(GROUP, parts.scheme) is None:
        raise BadInputError(
            f"no webhook speaks {parts.scheme[:20]!r} here: no plugin for it is installed", hint=_SPEAKERS
        )
    if parts.fragment or (not host or port == 0 if own else find_plugin(GROUP, parts.scheme) is None):
        raise BadInputError("the URL of a webhook is one of http or https, with a host", hint=_HINT)
    if not own and not url[len(parts.scheme) :].startswith("://"):
        raise BadInputError("the URL of a webhook has // after its scheme", hint=_HINT)
    place = parts.netloc if own else url.partition("?")[0]  # what a plugin's path has in it, nobody knows
    if "@" in place or without_credentials(url) != url:
        raise BadInputError(
            "the URL of a webhook has a user, a password or a token in it, and would be on record with it",
            hint="leave it out: what is sent is signed, and fusery webhook key NAME prints the key",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.scheme == "https", host, port or PORTS.get(parts.scheme, 0), path)


def is_named_private(host: str) -> bool:
    """Tell whether a host says by itself that it is not on the public internet; of a name, only its address does."""
    if host.rstrip(".").rpartition(".")[2] == "localhost":
        return True
    try:
        return not is_public(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet: also what it stands for, where it stands for another one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL or address in _TEREDO:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the address of the older internet that one of the newer stands for."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def addresses_of(host: str, port: int, *, private: bool, seconds: float) -> list[str]:
    """Return the addresses of a host, those to be connected to: a name may mean another one the next time.

    Args:
        host: name or address.
        port: of the receiver.
        private: those of private networks may be among them.
        seconds: to wait for at most.

    Raises:
        UnreachableError: there is none, or one of them is not public: then none is used.
    """
    found = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in _resolved(host, port, seconds)))
    if not found:
        raise UnreachableError("its host has no address")
    for text in found if not private else ():
        if not is_public(ipaddress.ip_address(text)):
            raise UnreachableError(f"its host has the address {text} of a private network")
    return found


def _resolved(host: str, port: int, seconds: float) -> list[Any]:
    """Look a name up in a thread of its own, since nothing else limits how long that takes."""
    answers: queue.Queue[Any] = queue.Queue()

    def look() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError, ValueError) as error:
            answers.put(error)

    threading.Thread(target=look, name=f"address of {host[:40]}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0.0))
    except queue.Empty:
        raise UnreachableError("its host's address was not found in time") from None
    if isinstance(answer, Exception):
        raise UnreachableError("its host is not known") from answer
    return list(answer)
