"""One attempt to deliver: a POST to a checked address, within a time that includes everything.

A URL has no credentials, and its host is not in a private network unless that is allowed.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fusery.storage.secrets import without_credentials

from ..errors import BadInputError
from ..remote.client import Sockets

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST = 2000
PORTS = {"http": 80, "https": 443}
_HINT = "write it as https://hooks.example.org/fusery"
_GLOBAL = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "100.64.0.0/10", "3fff::/20")
]
"""Networks that Python's tables of some versions call public: protocol assignments with a cloud's metadata service, relays,
Azure's platform, carriers' networks, documentation."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TEREDO = ipaddress.ip_network("2001::/32")


class UnreachableError(Exception):
    """A host has no address, or none that may be reached; the text says which, in few words."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A parsed URL."""

    url: str
    secure: bool
    host: str
    port: int
    path: str


def parse_url(text: str) -> WebhookTarget:
    """Read the URL of a webhook: http or https, with a host."""
    url = text.strip()
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadInputError(
            "the URL of a webhook has printable ASCII characters, and at most 2000 of them", hint=_HINT
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInputError("invalid webhook URL", hint=_HINT) from error
    if parts.scheme not in PORTS or parts.fragment or not host or port == 0:
        raise BadInputError("the URL of a webhook is one of http or https, with a host", hint=_HINT)
    if "@" in parts.netloc or without_credentials(url) != url:
        raise BadInputError(
            "the URL of a webhook has a user, a password or a token in it, and would be on record with it",
            hint="leave it out: what is sent is signed, and fusery admin webhook key NAME prints the key",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookTarget(url, parts.scheme == "https", host, port or PORTS[parts.scheme], path)


def is_named_private(host: str) -> bool:
    """Tell whether a host is localhost or an address that is not public; of other names, only the address tells."""
    if host.rstrip(".").rpartition(".")[2] == "localhost":
        return True
    try:
        return not is_public(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_public(address: Address) -> bool:
    """Tell whether an address, and the IPv4 address that it may stand for, is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
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


def addresses_of(host: str, port: int, *, private: bool, seconds: float) -> list[str]:
    """Return the addresses of a host, to connect to these: the name may mean another one the next time.

    The lookup has its own thread, since nothing else limits its time.  Raises `UnreachableError` if there is no address, or
    one of them is not public: then none is used.
    """
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
    found = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answer))
    if not found:
        raise UnreachableError("its host has no address")
    for text in found if not private else ():
        if not is_public(ipaddress.ip_address(text)):
            raise UnreachableError(f"its host has the address {text} of a private network")
    return found


SECONDS = 10.0
"""From the lookup of the host until the first lines of the answer."""

GONE = 410


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """The outcome of an attempt.

    Attributes:
        error: what went wrong, in few words and without the URL; empty if the receiver has taken it.
        gone: the receiver wants nothing more.
    """

    error: str = ""
    gone: bool = False


def post(
    target: WebhookTarget, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float = SECONDS
) -> DeliveryAnswer:
    """Send a body once, within some seconds, and return the outcome; `private`: addresses of private networks may be reached.

    No proxy of the environment is used and no redirection followed: both would lead to unchecked addresses.  Of the answer
    only the status is read.
    """
    import httpx2 as httpx

    end, failure = time.monotonic() + seconds, DeliveryAnswer(f"no answer within {seconds:g} s")
    sockets = Sockets()
    try:
        addresses = addresses_of(target.host, target.port, private=private, seconds=seconds)
    except UnreachableError as error:
        return DeliveryAnswer(str(error))
    with sockets.deadline(seconds) as late:
        for address in addresses:
            if (left := end - time.monotonic()) <= 0:
                break
            try:
                return _answer(_status(target, address, headers, body, sockets, left))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                if late.is_set() or isinstance(error, httpx.TimeoutException):
                    break
                failure = DeliveryAnswer(_reason(error))
                if not isinstance(error, httpx.ConnectError):
                    return failure
    return DeliveryAnswer(f"no answer within {seconds:g} s") if time.monotonic() >= end else failure


def _status(
    target: WebhookTarget,
    address: str,
    headers: Mapping[str, str],
    body: bytes,
    sockets: Sockets,
    seconds: float,
) -> int:
    """Send the request to an address, whose certificate has to be one of the host, and return the status."""
    import httpx2 as httpx

    scheme, host = ("https" if target.secure else "http"), f"[{address}]" if ":" in address else address
    sent = {"Host": urlsplit(target.url).netloc, "Content-Type": "application/json", "User-Agent": "fusery"}
    extensions = {"sni_hostname": target.host, "target": target.path.encode(), "trace": sockets.trace}
    certificates = ssl.create_default_context() if target.secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        httpx.Client(verify=certificates, trust_env=False, timeout=seconds) as client,
        client.stream(
            "POST",
            f"{scheme}://{host}:{target.port}/",
            content=body,
            headers={**sent, "Connection": "close", **headers},
            extensions=extensions,
        ) as response,
    ):
        return response.status_code


def _answer(status: int) -> DeliveryAnswer:
    if 200 <= status < 300:
        return DeliveryAnswer()
    if status == GONE:
        return DeliveryAnswer("it answered 410: it is gone", gone=True)
    redirected = ", and redirections are not followed" if 300 <= status < 400 else ""
    return DeliveryAnswer(f"it answered {status}{redirected}")


def _reason(error: Exception) -> str:
    causes = [error]
    while isinstance(cause := causes[-1].__cause__ or causes[-1].__context__, Exception):
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not good: {cause.verify_message}"[:200]
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens at its port"
    if isinstance(causes[-1], ConnectionError) or "disconnected" in str(error):
        return "it closed the connection"
    if isinstance(causes[-1], OSError):
        return f"it was not reached: {type(causes[-1]).__name__}"
    return "what it answered is not HTTP"
