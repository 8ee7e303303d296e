"""One attempt to deliver: a POST to an address that was looked at, within a time that includes everything."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..remote.client import Sockets
from .addresses import Target, UnreachableError, addresses_of

SECONDS = 10.0
"""From looking the host up until the answer's first lines are there."""

GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt.

    Attributes:
        error: what went wrong, in few words and without the URL; empty if the receiver has taken it.
        gone: the receiver says that nothing is to be sent to it any more.
    """

    error: str = ""
    gone: bool = False


def post(
    target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float = SECONDS
) -> Answer:
    """Send a body once, and return what came of it.

    No proxy of the environment is used and no redirection followed: both would lead where nobody has looked.  Of the answer only the
    status is read.

    Args:
        target: where to.
        headers: besides those of the content.
        body: JSON.
        private: addresses of private networks may be reached.
        seconds: to take at most.
    """
    import httpx2 as httpx

    end, failure = time.monotonic() + seconds, Answer(f"no answer within {seconds:g} s")
    sockets = Sockets()
    try:
        addresses = addresses_of(target.host, target.port, private=private, seconds=seconds)
    except UnreachableError as error:
        return Answer(str(error))
    with sockets.deadline(seconds) as late:
        for address in addresses:
            if (left := end - time.monotonic()) <= 0:
                break
            try:
                return _answer(_status(target, address, headers, body, sockets, left))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                if late.is_set() or isinstance(error, httpx.TimeoutException):
                    break
                failure = Answer(_reason(error))
                if not isinstance(error, httpx.ConnectError):
                    return failure
    return Answer(f"no answer within {seconds:g} s") if time.monotonic() >= end else failure


def _status(
    target: Target, address: str, headers: Mapping[str, str], body: bytes, sockets: Sockets, seconds: float
) -> int:
    """Send the request to an address, whose certificate has to be one of the host, and return the status of the answer."""
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


def _answer(status: int) -> Answer:
    if 200 <= status < 300:
        return Answer()
    if status == GONE:
        return Answer("it answered 410: it is gone", gone=True)
    if 300 <= status < 400:
        return Answer(f"it answered {status}, and redirections are not followed")
    return Answer(f"it answered {status}")


def _reason(error: Exception) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and isinstance(
        cause, Exception
    ):
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
