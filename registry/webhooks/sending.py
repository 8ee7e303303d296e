"""One attempt to deliver: a signed POST to a checked address, within a time that includes everything.

A URL has no credentials, and its host is not in a private network unless that is allowed.

Signatures have the form of Standard Webhooks (standardwebhooks.com).  A key is derived from the deliverer's secret by HKDF
(RFC 5869) with SHA-256, for one webhook and one URL: no row has it, one receiver's key says nothing of another's, and nothing
is signed with it after somebody edited the URL in the database.  The secret is never read from a database or a home folder.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fusery.storage.failures import opened
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


SECRET, SECRET_FILE = "FUSERY_WEBHOOK_SECRET", "FUSERY_WEBHOOK_SECRET_FILE"
PRIVATE = "FUSERY_WEBHOOK_PRIVATE"

_SHORTEST, _MOST_SECRETS, _LARGEST = 32, 4, 64 << 10


class NoWebhookSecretError(BadInputError):
    """Neither FUSERY_WEBHOOK_SECRET nor FUSERY_WEBHOOK_SECRET_FILE is set."""


@dataclass(frozen=True, slots=True)
class Deliverer:
    """The secrets that make signing keys, the current one first, and whether private networks may be reached."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    private: bool = False

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Deliverer:
        """Read the environment."""
        values = os.environ if environment is None else environment
        text, file = values.get(SECRET, ""), values.get(SECRET_FILE, "")
        if file and not text.strip():
            with opened(Path(file)) as content:
                text = content.read(_LARGEST).decode(errors="replace")
        secrets = tuple(map(os.fsencode, text.split()))
        if any(len(secret) < _SHORTEST for secret in secrets) or len(secrets) > _MOST_SECRETS:
            problem = f"invalid webhook secret (of {_SHORTEST} characters or more; at most {_MOST_SECRETS})"
            raise BadInputError(problem, hint="make one: openssl rand -hex 32")
        return cls(secrets, values.get(PRIVATE) == "1")

    def require_secrets(self) -> tuple[bytes, ...]:
        """Return the secrets."""
        if not self.secrets:
            hint = f"export {SECRET_FILE}=FILE, made by: openssl rand -hex 32"
            problem = "there is no secret to sign webhooks with in this environment"
            raise NoWebhookSecretError(problem, hint=hint)
        return self.secrets


def derive(secret: bytes, uid: str, url: str) -> bytes:
    """Return a webhook's signing key, 32 bytes."""
    extracted = hmac.digest(b"fusery.webhook.v1", secret, hashlib.sha256)
    return hmac.digest(extracted, f"{uid} {url}".encode() + b"\x01", hashlib.sha256)


def key_text(key: bytes) -> str:
    """Return a key as receivers are given it: `whsec_` and its Base64."""
    return "whsec_" + base64.b64encode(key).decode("ascii")


def headers(keys: Sequence[bytes], delivery: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers that prove who sent a body and when, in seconds since 1970; each key signs, while a secret changes."""
    signed = f"{delivery}.{timestamp}.".encode() + body
    digests = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii") for key in keys)
    return {
        "Webhook-Id": delivery,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": " ".join(f"v1,{digest}" for digest in digests),
    }


def parse_url(text: str) -> SplitResult:
    """Read the URL of a webhook: http or https, with a host."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInputError("invalid webhook URL", hint=_HINT) from error
    is_plain = url.isascii() and url.isprintable() and not {" ", "\\"} & {*url} and len(url) <= _LONGEST
    if not is_plain or parts.scheme not in PORTS or parts.fragment or not host or port == 0:
        problem = f"invalid webhook URL (http or https, printable ASCII, at most {_LONGEST} characters)"
        raise BadInputError(problem, hint=_HINT)
    if "@" in parts.netloc or without_credentials(url) != url:
        problem = "the URL of a webhook must not contain a user, a password or a token"
        hint = "leave it out: requests are signed, and fusery admin webhook key NAME prints the key"
        raise BadInputError(problem, hint=hint)
    return parts


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
    return address.is_global and not address.is_multicast


def addresses_of(host: str, port: int, *, private: bool, seconds: float) -> list[str]:
    """Return the addresses of a host, to connect to these; raise `UnreachableError` unless all of them may be reached."""
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
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answer))
    if not addresses:
        raise UnreachableError("its host has no address")
    for text in addresses if not private else ():
        if not is_public(ipaddress.ip_address(text)):
            raise UnreachableError(f"its host has the address {text} of a private network")
    return addresses


SECONDS = 10.0  # from the lookup of the host until the first lines of the answer


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """The outcome of an attempt: what went wrong, without the URL, empty if it was taken; `gone`: nothing more is wanted."""

    error: str = ""
    gone: bool = False


def post(
    target: SplitResult, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float = SECONDS
) -> DeliveryAnswer:
    """Send a body once, within some seconds, and return the outcome; `private`: addresses of private networks may be reached.

    No proxy of the environment is used and no redirection followed: both would lead to unchecked addresses.  The certificate
    has to be one of the host.  Of the answer only the status is read.
    """
    import httpx2 as httpx

    end, failure, sockets = time.monotonic() + seconds, "", Sockets()
    scheme, host, port = target.scheme, target.hostname or "", target.port or PORTS[target.scheme]
    try:
        addresses = addresses_of(host, port, private=private, seconds=seconds)
    except UnreachableError as error:
        return DeliveryAnswer(str(error))
    is_tls = scheme == "https"
    certificates = ssl.create_default_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sent = {
        "Host": target.netloc, "Content-Type": "application/json", "User-Agent": "fusery", "Connection": "close",
    }  # fmt: skip
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    extensions = {"sni_hostname": host, "target": path.encode(), "trace": sockets.trace}
    with sockets.deadline(seconds) as late:
        for address in addresses:
            if (left := end - time.monotonic()) <= 0:
                break
            place = f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}/"
            try:
                with (
                    httpx.Client(verify=certificates, trust_env=False, timeout=left) as client,
                    client.stream(
                        "POST", place, content=body, headers={**sent, **headers}, extensions=extensions
                    ) as response,
                ):
                    status = response.status_code
                redirected = ", and redirections are not followed" if 300 <= status < 400 else ""
                if status == 410:
                    return DeliveryAnswer("it answered 410: it is gone", gone=True)
                taken = 200 <= status < 300
                return DeliveryAnswer() if taken else DeliveryAnswer(f"it answered {status}{redirected}")
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                failure = "" if late.is_set() or isinstance(error, httpx.TimeoutException) else _reason(error)
                if not failure or not isinstance(error, httpx.ConnectError):
                    break
    return DeliveryAnswer(failure or f"no answer within {seconds:g} s")


def _reason(error: Exception) -> str:
    causes = [error]
    while isinstance(cause := causes[-1].__cause__ or causes[-1].__context__, Exception):
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"[:200]
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens at its port"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS"
    return "it gave no valid HTTP answer"
