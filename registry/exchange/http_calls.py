"""Send requests to a registry's server over persistent connections, with a token and retries.

Certificates are verified, and a redirect is an error.  The token is in one header and in no message.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from fusery.storage.errors import FuseryError, OutOfSpaceError

from ..errors import (
    AlreadyExistsError,
    AmbiguousReferenceError,
    BadInputError,
    BlobsMissingError,
    ServerRefusedError,
    ServerUnavailableError,
    UnknownReferenceError,
)
from ..remote.address import ServerAddress, trusted_certificates

ATTEMPTS = 8
"""How often something is tried without getting further."""

LONGEST_WAIT = 20.0
"""Seconds between two tries."""

GIVE_UP = 60.0
"""Seconds without progress, from the first failure on, after which there is no further attempt."""

TIMEOUT = 60.0
"""Seconds without any byte after which a connection is given up."""

IDLE = 3.0
"""Seconds after which a connection that nothing was asked over is not used again: servers hang up on such."""

_PASSING = frozenset({429, 502, 503, 504})
_ANSWER = 64 << 20
_REFUSAL = 1 << 20
_SAID = 1_000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ADVICE = re.compile(r"(?<![\w./-])(?P<command>fusery [^;:]*?)(?P<there>, there)?(?=[;:]|$)")
_KNOWN: Mapping[str, type[FuseryError]] = {
    error.code: error
    for error in (
        AlreadyExistsError,
        AmbiguousReferenceError,
        BadInputError,
        BlobsMissingError,
        OutOfSpaceError,
        UnknownReferenceError,
    )
}

T = TypeVar("T")


class PassingError(Exception):
    """Something that may be over when it is tried again."""


class RefusedError(ServerRefusedError):
    """A refusal, with what the server calls it.

    Attributes:
        said: its code there.
        answer: what was sent, where it is no refusal of the usual form.
    """

    def __init__(self, message: str, said: str, *, hint: str | None = None, answer: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.said = said
        self.answer = answer


@dataclass(slots=True)
class Patience:
    """The retry budget of an operation: attempts, and `GIVE_UP` seconds, since its last progress."""

    most: int
    tried: int = 0
    failing_since: float = 0.0

    def progressed(self) -> None:
        """Tell that it got further."""
        self.tried, self.failing_since = 0, 0.0

    def failed(self, wait: float) -> bool:
        """Count a failure; return whether to give up instead of waiting `wait` seconds."""
        self.tried += 1
        self.failing_since = self.failing_since or time.monotonic()
        return self.tried >= self.most or time.monotonic() + wait - self.failing_since > GIVE_UP


@dataclass
class HttpCalls:
    """Requests to one server, from any thread, each of which keeps a connection of its own.

    Attributes:
        address: of the server.
        token: sent with each; empty for none.
        patience: how often something is tried without getting further.
        secret: what the token is called.
        hint: for whoever has no token, or another one.
        away: the hint where the server does not answer; None for the usual one.
        given_up: set when nobody wants an answer any more.
    """

    address: ServerAddress
    token: str = field(repr=False)
    patience: int = ATTEMPTS
    secret: str = "token"
    hint: str = "ask an admin for a new one"
    away: str | None = None
    given_up: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._trusted = trusted_certificates() if self.address.secure else None
        self._own = threading.local()
        self._open: list[http.client.HTTPConnection] = []
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def require_wanted(self) -> None:
        """Go no further when nobody wants an answer any more.

        Raises:
            PassingError: so it is.
        """
        if self.given_up.is_set():
            raise PassingError("it was given up")

    def hang_up(self) -> None:
        """Give up what is going on in other threads."""
        self.given_up.set()
        for connection in list(self._open):
            with suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_: object) -> None:
        self.given_up.set()
        for connection in self._open:
            connection.close()

    def json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = TIMEOUT,
        whole: float | None = None,
        again: frozenset[str] = frozenset(),
    ) -> bytes:
        """Send a request, as often as it takes, and return the JSON that is answered.

        Args:
            method: such as `POST`.
            path: below the server's address.
            body: JSON to send.
            timeout: seconds for which it may think.
            whole: seconds for all of an answer, however it comes in pieces; None for no such bound.
            again: codes of refusals after which it is sent again.
        """

        def once(_: Patience) -> bytes:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            with (
                self._within(whole),
                self.answer(method, path, body, headers, timeout=timeout, again=again) as response,
            ):
                data = response.read(_ANSWER + 1)
            if len(data) > _ANSWER:
                raise ServerRefusedError(f"{self.address.url} answers with more than can be read")
            return data

        return self.tried(once)

    @contextmanager
    def _within(self, seconds: float | None) -> Iterator[None]:
        """Hang up when an answer of this thread's takes too long in all, as one that comes byte by byte does."""
        if seconds is None:
            yield
            return
        connection, late = self._connection(), threading.Event()

        def hang_up() -> None:
            late.set()
            with suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (PassingError, OSError, ValueError) as error:
            if late.is_set():
                raise PassingError(f"the answer did not come within {seconds:.0f} s") from error
            raise
        finally:
            timer.cancel()
        if late.is_set():
            raise PassingError(f"the answer did not come within {seconds:.0f} s")

    def tried(self, once: Callable[[Patience], T]) -> T:
        """Return what a function returns, called again while it raises `PassingError` and there is patience.

        Raises:
            ServerUnavailableError: there is none any more.
        """
        import tenacity  # 30 ms

        patience = Patience(self.patience)

        def is_over(state: tenacity.RetryCallState) -> bool:
            # One that cannot be reached at all is rather named wrongly than starting.
            patience.most = self.patience if self._reached else 2
            return patience.failed(state.upcoming_sleep) or self.given_up.is_set()

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=LONGEST_WAIT),
            stop=is_over,
            sleep=tenacity.sleep_using_event(self.given_up),
            reraise=True,
        )
        try:
            return again(lambda: once(patience))
        except PassingError as error:
            message = f"{self.address.url} does not answer: {error}"
            if (hint := self.away) is None:
                check = f"check that a server runs at {self.address.url}, then run the command again"
                hint = "run the command again: it goes on where it stopped" if self._reached else check
            raise ServerUnavailableError(message, hint=hint) from error

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes | memoryview] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT,
        again: frozenset[str] = frozenset(),
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request once and yield its answer, if that is a good one.

        Raises:
            PassingError: it may be answered the next time.
            FuseryError: it was refused.
        """
        with self._passing():
            self.require_wanted()
            connection = self._connection()
            done = False
            try:
                response = self._exchanged(connection, method, path, body, headers or {}, timeout)
                if response.status not in (200, 206):
                    raise self._refusal(response, again)
                yield response
                done = response.isclosed() and not response.will_close
            finally:
                self._own.used = time.monotonic()
                if not done:
                    # What is left of an answer would be taken for the next one.
                    connection.close()

    def _exchanged(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | Iterable[bytes | memoryview] | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> http.client.HTTPResponse:
        sent = {"Accept": "application/json", **headers}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, self.address.path + path, body, sent)
        except OSError:
            # It may have said why before it hung up.
            if connection.sock is not None:
                with suppress(OSError, http.client.HTTPException):
                    return connection.getresponse()
            raise
        self._reached = True
        # Only now it may think for longer than bytes may stand still.
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection.getresponse()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise ServerUnavailableError(
                f"the certificate of {self.address.url} is not trusted: {error.verify_message}",
                hint="FUSERY_CA_FILE names the certificates that are",
            ) from error
        except http.client.HTTPException as error:
            raise PassingError(f"the answer breaks off ({type(error).__name__})") from error
        except TimeoutError as error:
            raise PassingError("nothing comes any more") from error
        except OSError as error:
            if error.filename is not None:
                raise  # of a file here
            raise PassingError((error.strerror or type(error).__name__).lower()) from error

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if found is None:
            host, port = self.address.host, self.address.port
            if self._trusted is not None:
                found = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self._trusted)
            else:
                found = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
            self._own.connection = found
            self._open.append(found)
        if time.monotonic() - getattr(self._own, "used", 0.0) > IDLE:
            found.close()  # it opens again by itself
        if found.sock is not None:
            found.sock.settimeout(TIMEOUT)
        return found

    def _refusal(self, response: http.client.HTTPResponse, again: frozenset[str]) -> Exception:
        """Return what a refusal means; what the server says of it is data, and shown as such."""
        data = response.read(_REFUSAL)
        status = response.status
        try:
            document = json.loads(data)
            # SGLang's servers have a form of their own.
            told = document.get("error") or {"message": document["error_message"]}
            code, message, hint = (str(told.get(key) or "") for key in ("code", "message", "hint"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            code, message, hint = "", "", ""
        message, hint = self._shown(message), turned(self._shown(hint))
        if status in _PASSING or code in again:
            return PassingError(message or f"it says {status}")
        if 300 <= status < 400:
            return ServerRefusedError(
                f"{self.address.url} sends elsewhere ({status}), and the token goes nowhere else",
                hint="give the address that it leads to",
            )
        if status == 401:
            said = f"does not take this {self.secret}" if self.token else f"wants its {self.secret}"
            return ServerRefusedError(f"{self.address.url} {said}", hint=self.hint)
        if code in _KNOWN:
            return _KNOWN[code](message, hint=hint or None)
        said = f": {message}" if message else f" ({status})"
        message, answer = f"{self.address.url} refused this{said}", b"" if code or message else data
        return RefusedError(message, code, hint=hint or None, answer=answer)

    def _shown(self, text: str) -> str:
        hidden = text.replace(self.token, "...") if self.token else text
        return _CONTROL.sub(" ", hidden)[:_SAID]


def turned(hint: str) -> str:
    """Return what a server advises as it is to be read here: its own registry is the one there, and the one there is ours."""
    return _ADVICE.sub(lambda found: found["command"] + ("" if found["there"] else ", there"), hint)


def parsed(data: bytes, where: str, what: str = "no server of fusery's") -> Any:
    """Return JSON that a server has sent.

    Args:
        data: its text.
        where: the server's address.
        what: the server is if it sends something else.

    Raises:
        ServerRefusedError: it is none.
    """
    from fusery.storage.errors import FormatError
    from fusery.storage.jsonfile import parse_json

    try:
        return parse_json(data, "the answer")
    except FormatError as error:
        raise ServerRefusedError(f"{where} is {what}: {error}", hint="is that its address?") from error
