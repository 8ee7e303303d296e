"""An HTTP client for one server; it verifies certificates, refuses redirects, and sends its token in one header alone."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fusery.storage.errors import FuseryError

from ..errors import BadInputError, ServerRefusedError, ServerUnavailableError
from .address import ServerAddress, is_loopback, trusted_certificates

if TYPE_CHECKING:
    import httpx2 as httpx

ATTEMPTS = 8  # maximum number of attempts without progress
LONGEST_WAIT = 20.0  # maximum number of seconds between two attempts
GIVE_UP = 60.0  # seconds without progress since the first failure, after which a request is not retried
TIMEOUT = 60.0  # seconds without a byte after which a request fails
WHOLE = 3_600.0  # maximum number of seconds for a response that is read into memory
LARGEST = 256 << 20  # maximum size in bytes of a response that is read into memory
IDLE = 3.0  # seconds after which an idle connection is closed: servers close such connections, too
_TRANSIENT = frozenset({429, 502, 503, 504})
_REFUSAL = 1 << 20

T = TypeVar("T")


class TransientError(Exception):
    """A failure after which a retry may succeed."""


class RetryBudget:
    """The failed attempts and the time since the last progress."""

    def __init__(self) -> None:
        self.failures, self._since = 0, 0.0

    def progressed(self) -> None:
        """Reset the attempts and the time after progress."""
        self.failures, self._since = 0, 0.0

    def is_spent(self, attempts: int, wait: float) -> bool:
        """Count a failure; return whether to give up instead of retrying in `wait` seconds."""
        self.failures += 1
        self._since = self._since or time.monotonic()
        return self.failures >= attempts or time.monotonic() + wait - self._since > GIVE_UP


class Sockets:
    """The open connections of requests whose httpx extension `trace` is the method `trace`."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock, self._refused = threading.Lock(), False
        self._thread = threading.local()  # `late`: the event of its deadline

    def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Record a new connection."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._open.add(details["return_value"].get_extra_info("socket"))
            late = getattr(self._thread, "late", None)
            if self._refused or (late is not None and late.is_set()):
                self.shut_down()

    def shut_down(self, *, further: bool = False) -> None:
        """Shut the connections down, with `further` later ones too: closing them would not wake up their readers."""
        self._refused = self._refused or further
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[threading.Event]:
        """Shut down the connections after a time, also those that this thread opens later; yield an event that is then set."""
        late = self._thread.late = threading.Event()

        def end() -> None:
            late.set()
            self.shut_down()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            self._thread.late = None


class HttpClient:
    """A thread-safe HTTP client for one server."""

    secret = "token"  # name of the credential in messages
    attempts = ATTEMPTS
    unavailable_hint: str | None = None  # hint if the server does not answer; None for the default
    login_hint: str | None = None  # hint for a missing or invalid credential; None for the default

    def __init__(self, address: ServerAddress, token: str = "") -> None:
        self.address, self.token, self.url = address, token, address.url
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._sockets = Sockets()
        self._reached = False
        self._pool: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def cancel(self) -> None:
        """Abort the requests of other threads, and refuse new ones."""
        self._cancelled.set()
        self._sockets.shut_down(further=True)

    def require_wanted(self) -> None:
        """Raise `TransientError` after `cancel`."""
        if self._cancelled.is_set():
            raise TransientError("the transfer was cancelled")

    def request(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        params: Sequence[tuple[str, str]] = (),
        timeout: float = TIMEOUT,
        whole: float = WHOLE,
        repeat: bool = True,
        accept: Callable[[int, bytes], bool] = lambda status, data: False,
    ) -> bytes:
        """Send a JSON request with retries, and return the response's body."""
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"

        def once(_: RetryBudget) -> bytes:
            options: Any = {"params": params, "headers": headers, "timeout": timeout, "repeat": repeat}
            with self._within(whole), self.stream(method, path, content, **options) as response:
                data = self._read(response, LARGEST if response.status_code < 300 else _REFUSAL)
                if response.status_code >= 300 and not accept(response.status_code, data):
                    raise self.refusal(response.status_code, data)
                return data

        return self.retried(once)

    def retried(self, once: Callable[[RetryBudget], T]) -> T:
        """Call a function, retry it after `TransientError`, and return its result."""
        budget = RetryBudget()
        while True:
            try:
                return once(budget)
            except TransientError as error:
                # If the server was never reached, its address is probably wrong.
                attempts = self.attempts if self._reached else 2
                wait = random.uniform(0, min(LONGEST_WAIT, 0.25 * 2**budget.failures))
                if budget.is_spent(attempts, wait) or self._cancelled.wait(wait):
                    raise self._unavailable(str(error)) from error

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        content: bytes | Iterable[bytes] | None = None,
        *,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str],
        timeout: float = TIMEOUT,
        repeat: bool = True,
    ) -> Iterator[httpx.Response]:
        """Send a request once, and yield the response before its body is read."""
        import httpx2 as httpx

        self.require_wanted()
        try:
            with self.pool.stream(
                method,
                path,
                content=content,
                params=list(params),
                headers=dict(headers),
                timeout=httpx.Timeout(TIMEOUT, read=timeout),
                extensions={"trace": self._sockets.trace},
            ) as response:
                self._reached = True
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                problem = f"the certificate of {self.url} is not trusted"
                hint = "set FUSERY_CA_FILE to a file with the CA certificate"
                raise ServerUnavailableError(problem, hint=hint) from error
            proxy = isinstance(error, httpx.ProxyError)
            refusal = f"the proxy refuses: {shown(str(error), self.token)}"
            raise TransientError(refusal if proxy else "it cannot be reached") from error
        except httpx.TransportError as error:
            late = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
            reason = "timeout" if late else f"the connection was lost ({type(error).__name__})"
            raise (TransientError(reason) if repeat else self._unavailable(reason)) from error

    def require_success(self, response: httpx.Response, repeat: frozenset[str] = frozenset()) -> None:
        """Raise the error of a response with an error status; `repeat` lists the codes of transient errors."""
        if response.status_code not in (200, 206):
            with self._within(TIMEOUT):
                data = self._read(response, _REFUSAL)
            error = self.refusal(response.status_code, data)
            if isinstance(error, FuseryError) and error.code in repeat:
                raise TransientError(error.message) from error
            raise error

    def refusal(self, status: int, data: bytes) -> Exception:
        """Return the error for a response with an error status; remove control characters from its text."""
        if status in _TRANSIENT:
            return TransientError(self._message(data) or f"HTTP status {status}")
        if 300 <= status < 400:
            problem = f"{self.url} redirects ({status}): the {self.secret} is not sent to another address"
            return ServerRefusedError(problem, hint="give the final address")
        if status == 401:
            problem = f"refuses this {self.secret}" if self.token else f"needs a {self.secret}"
            return ServerRefusedError(
                f"{self.url} {problem}", hint=self.login_hint or f"fusery login {self.url}"
            )
        return self.error(status, data)

    def error(self, status: int, data: bytes) -> FuseryError:
        """Return the error for a response that is neither transient nor about the credential."""
        message = self._message(data)
        return ServerRefusedError(f"{self.url} refused the request: {message or status}")

    @property
    def pool(self) -> httpx.Client:
        """Return the connection pool."""
        with self._lock:
            if self._pool is None:
                self._pool = self._make_pool()
            return self._pool

    def _make_pool(self) -> httpx.Client:
        """Return a connection pool; it takes proxies from the environment, except for this machine."""
        from ssl import PROTOCOL_TLS_CLIENT, SSLContext

        import httpx2 as httpx

        headers = {"User-Agent": "fusery", "Accept-Encoding": "identity"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # Without TLS, skip loading the system's certificates, which is slow.
        verify = trusted_certificates() if self.address.secure else SSLContext(PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(keepalive_expiry=IDLE)
        options: Any = {"limits": limits, "trust_env": not is_loopback(self.address.host)}
        try:
            return httpx.Client(base_url=self.url, headers=headers, verify=verify, **options)
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            hint = "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
            raise BadInputError("invalid proxy in the environment", hint=hint) from error

    def _read(self, response: httpx.Response, most: int) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self.strange()
        pieces, left = [], most
        for piece in response.iter_raw():
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise ServerRefusedError(f"the response of {self.url} is larger than {most >> 20} MiB")
        return b"".join(pieces)

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Abort this client's requests after a time, even if bytes keep arriving."""
        with self._sockets.deadline(seconds) as late:
            try:
                yield
            except (TransientError, ServerUnavailableError) as error:
                if not late.is_set():
                    raise
                reason = f"the response took more than {seconds:.0f} s"
                repeat = isinstance(error, TransientError)
                raise (TransientError(reason) if repeat else self._unavailable(reason)) from error

    def _message(self, data: bytes) -> str:
        """Return the message of an error response of a fusery server, vLLM or SGLang."""
        try:
            document = json.loads(data)
            error = document.get("error") or {"message": document["error_message"]}
            return shown(str(error.get("message") or ""), self.token)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ""

    def _unavailable(self, reason: str) -> FuseryError:
        hint = self.unavailable_hint
        if hint is None and self._reached:
            hint = "run the command again to resume the transfer"
        check = f"check that a server runs at {self.url}, then run the command again"
        return ServerUnavailableError(f"{self.url} does not answer: {reason}", hint=hint or check)

    def strange(self) -> FuseryError:
        """Return the error for a response that does not follow the server's API."""
        problem = f"unexpected response from {self.url}: it is no fusery server, or has another version"
        return ServerRefusedError(problem, hint="check the address")


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST = 2_000


def shown(text: str, token: str) -> str:
    """Return text of a server without the token and control characters, and not too long."""
    hidden = text.replace(token, "...") if token else text
    return _CONTROL.sub(" ", hidden)[:_LONGEST]
