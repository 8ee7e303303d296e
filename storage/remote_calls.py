"""Calls to an fsspec file system: each with a deadline and retries, several at a time where the file system can."""

from __future__ import annotations

import asyncio
import errno
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import tenacity
from fsspec.spec import AbstractFileSystem

from .errors import OutOfSpaceError, StorageError, StoreDeniedError, StoreUnavailableError
from .failures import DENIED, FULL
from .plugins import Plugin, PluginError, blaming
from .secrets import without_secrets

DEADLINE = 45.0
"""Seconds without any progress after which an operation is given up."""

ATTEMPTS = 8
"""How often a call is tried within the deadline."""

Call = str | Callable[..., Any]
"""The name of a method of the file system, or a coroutine function whose first argument is the file system."""


_PANICS = ("pyo3_runtime", "pyo3_async_runtimes")
"""Modules, which cannot be imported, of the errors for a panic in obstore's threads; not all are an `Exception`."""

_ENDED = (asyncio.CancelledError, GeneratorExit)
"""Raised in a call in an event loop whose result is no longer awaited."""


class StoreSilentError(StoreUnavailableError):
    """The store did not answer within the deadline, or failed in passing until then."""

    code = "store_unavailable"


class _Transient(Exception):
    """Worth another try."""


@dataclass(eq=False)
class RemoteCalls:
    """The calls of one store to its file system; transient failures are retried here, with the libraries' retries off."""

    file_system: AbstractFileSystem
    where: str
    deadline: float = DEADLINE
    plugin: Plugin | None = None
    _progress_at: float = field(default_factory=time.monotonic, init=False)
    _silent: bool = field(default=False, init=False)

    def progressed(self) -> None:
        """Tell that bytes have moved: the deadline counts from now on."""
        self._progress_at = time.monotonic()

    def mark(self) -> Callable[[int], None]:
        """Return a function to tell how far a call has come: only what no try of it had reached is progress."""
        furthest = 0

        def reached(count: int) -> None:
            nonlocal furthest
            if count > furthest:
                furthest = count
                self.progressed()

        return reached

    def run(self, call: Call, *arguments: Any, **options: Any) -> Any:
        """Make a call and wait for it; raise RemoteError if the name exists, or is missing."""
        return self.wait(self.start(call, *arguments, **options))

    def tidy(self, call: Call, *arguments: Any) -> None:
        """Make a call that only tidies up: it may fail, and a store that does not answer is not asked."""
        if not self._silent:
            with suppress(RemoteError, StorageError, PluginError):
                self.run(call, *arguments)

    def start(self, call: Call, *arguments: Any, tries: int = ATTEMPTS, **options: Any) -> Future[Any]:
        """Begin a call for `wait`; on a file system that is not asynchronous, it is over when this returns."""
        self.progressed()
        if self.file_system.async_impl:
            policy = self._policy(tenacity.AsyncRetrying, tries)
            waiting = policy(self._attempt_async, call, arguments, options)
            return asyncio.run_coroutine_threadsafe(waiting, self.file_system.loop)

        def attempt() -> Any:
            with self._translated():
                if isinstance(call, str):
                    return getattr(self.file_system, call)(*arguments, **options)
                return call(self.file_system, *arguments, **options)

        future: Future[Any] = Future()
        try:
            policy = self._policy(tenacity.Retrying, tries)
            future.set_result(policy(attempt))
        except (_Transient, RemoteError, StorageError) as error:
            future.set_exception(error)
        return future

    def wait(self, future: Future[Any], patience: int = 1) -> Any:
        """Return the result of a call that `start` began; the deadline may pass `patience` times without progress."""
        try:
            while True:
                try:
                    result = future.result(timeout=max(0.0, self._left(patience)))
                    self.progressed()
                    self._silent = False
                    return result
                except FutureTimeout:
                    if self._left(patience) <= 0:
                        raise self._silence("no answer in time") from None
        except _Transient as error:
            raise self._silence(describe(error.__cause__)) from error.__cause__
        finally:
            # Also on Ctrl-C; a call that is done does not notice.
            future.cancel()

    def _policy(self, retrying: type[Any], tries: int) -> Any:
        return retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=lambda state: state.attempt_number >= tries or self._left() <= state.upcoming_sleep,
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )

    def _left(self, patience: int = 1) -> float:
        return self._progress_at + patience * self.deadline - time.monotonic()

    async def _attempt_async(self, call: Call, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        with self._translated(*_ENDED):
            if isinstance(call, str):
                return await getattr(self.file_system, f"_{call}")(*arguments, **options)
            return await call(self.file_system, *arguments, **options)

    @contextmanager
    def _translated(self, *besides: type[BaseException]) -> Iterator[None]:
        """Turn errors of the libraries, and panics of obstore, into errors of the store."""
        try:
            with blaming(self.plugin, besides=(*foreign_errors(), *besides)):
                yield
        except BaseException as error:
            if isinstance(error, foreign_errors()) or type(error).__module__ in _PANICS:
                kind = classify(error)
                meaning: Exception = failure(kind, error, self.where)
                if kind is FailureKind.TRANSIENT:
                    meaning = _Transient()
                elif kind in (FailureKind.EXISTS, FailureKind.MISSING):
                    meaning = RemoteError(kind)
                raise meaning from without_secrets(error)
            raise

    def _silence(self, reason: str) -> StoreSilentError:
        self._silent = True
        hint = "check the network and the store's URL, then run the command again"
        return StoreSilentError(f"the store {self.where} did not answer: {reason}", hint=hint)


def age(stamp: object) -> float:
    """Return the seconds since a time as backends write it; what has no time is new, so that it is not swept."""
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp() if stamp.tzinfo else stamp.replace(tzinfo=UTC).timestamp()
    return max(0.0, time.time() - stamp) if isinstance(stamp, int | float) else 0.0


class FailureKind(Enum):
    """What a failure of a file system means."""

    EXISTS = "exists"
    MISSING = "missing"
    DENIED = "denied"
    FULL = "full"
    TRANSIENT = "transient"
    BROKEN = "broken"


class RemoteError(Exception):
    """A failure that the store decides about: the name is taken, or it is not there."""

    def __init__(self, kind: FailureKind) -> None:
        self.kind = kind


class NoPlaceError(StoreUnavailableError):
    """The store's bucket or container was not found."""

    code = "store_unavailable"

    def __init__(self, where: str, place: str, code: str = "") -> None:
        text = f"the store {where} has no such {place}"
        super().__init__(f"{text}: {code}" if code else text, hint=f"make the {place}, or correct the URL")


# What the libraries below fsspec let through beside OSError.  They are looked up by name among the modules that are
# loaded: one that is not loaded cannot have raised anything, and loading it would take a second.  The first that
# fits counts: subclasses stand before their bases.
_CLASSES: tuple[tuple[str, str, FailureKind], ...] = (
    ("botocore.exceptions", "BotoCoreError", FailureKind.DENIED),  # it only finds credentials here
    ("obstore.exceptions", "AlreadyExistsError", FailureKind.EXISTS),
    ("obstore.exceptions", "PreconditionError", FailureKind.EXISTS),
    ("obstore.exceptions", "PermissionDeniedError", FailureKind.DENIED),
    ("obstore.exceptions", "UnauthenticatedError", FailureKind.DENIED),
    ("obstore.exceptions", "GenericError", FailureKind.TRANSIENT),
    ("obstore.exceptions", "BaseError", FailureKind.BROKEN),
    ("asyncssh.misc", "PermissionDenied", FailureKind.DENIED),
    ("asyncssh.misc", "HostKeyNotVerifiable", FailureKind.DENIED),
    ("asyncssh.public_key", "KeyImportError", FailureKind.DENIED),
    ("asyncssh.public_key", "KeyEncryptionError", FailureKind.DENIED),
    ("asyncssh.sftp", "SFTPPermissionDenied", FailureKind.DENIED),
    ("asyncssh.sftp", "SFTPWriteProtect", FailureKind.DENIED),
    ("asyncssh.sftp", "SFTPNoSpaceOnFilesystem", FailureKind.FULL),
    ("asyncssh.sftp", "SFTPQuotaExceeded", FailureKind.FULL),
    ("asyncssh.sftp", "SFTPFileAlreadyExists", FailureKind.EXISTS),
    ("asyncssh.sftp", "SFTPNoSuchFile", FailureKind.MISSING),
    ("asyncssh.sftp", "SFTPNoSuchPath", FailureKind.MISSING),
    ("aiohttp", "ClientError", FailureKind.TRANSIENT),
    ("requests.exceptions", "ConnectionError", FailureKind.TRANSIENT),
    ("requests.exceptions", "Timeout", FailureKind.TRANSIENT),
    ("requests.exceptions", "ChunkedEncodingError", FailureKind.TRANSIENT),
    ("asyncssh.misc", "DisconnectError", FailureKind.TRANSIENT),
    ("asyncssh.misc", "ChannelOpenError", FailureKind.TRANSIENT),
    ("asyncssh.sftp", "SFTPConnectionLost", FailureKind.TRANSIENT),
    ("asyncssh.sftp", "SFTPNoConnection", FailureKind.TRANSIENT),
    ("asyncssh.misc", "Error", FailureKind.BROKEN),
)

_TRANSIENT_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        "EBUSY", "EREMOTEIO", "EIO", "EAGAIN", "EINTR", "EPIPE", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH",
        "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENETRESET", "ENETDOWN",
    )
    if hasattr(errno, name)
)  # fmt: skip

# An upload that somebody else completed or aborted, or whose blocks were dropped: to be begun again.
_GONE_CODES = frozenset({"NoSuchUpload", "InvalidPart", "InvalidBlockList"})
_PLACES = {"NoSuchBucket": "bucket", "ContainerNotFound": "container"}
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})\b")
_STATUSES = {
    401: FailureKind.DENIED,
    403: FailureKind.DENIED,
    404: FailureKind.MISSING,
    408: FailureKind.TRANSIENT,
    409: FailureKind.EXISTS,
    412: FailureKind.EXISTS,
    429: FailureKind.TRANSIENT,
}
_WRONG_REGION = "incorrectly configured region"


def foreign_errors() -> tuple[type[BaseException], ...]:
    """Return every class of exception that a call to a file system may raise."""
    loaded = [getattr(sys.modules.get(module), name, None) for module, name, _ in _CLASSES]
    # obstore raises a plain ValueError for some options.
    return (OSError, asyncio.TimeoutError, ValueError, *filter(None, loaded))


def classify(error: BaseException) -> FailureKind:
    """Return what an exception of a file system means."""
    code = _code(error)
    if code in _GONE_CODES:
        return FailureKind.MISSING
    if code in _PLACES or _WRONG_REGION in str(error):
        return FailureKind.BROKEN
    for module, name, kind in _CLASSES:
        error_class = getattr(sys.modules.get(module), name, None)
        if error_class is not None and isinstance(error, error_class):
            status = _status(error) if name == "GenericError" else 0
            if status >= 500 and status != 501:
                return FailureKind.TRANSIENT
            return _STATUSES.get(status, FailureKind.BROKEN) if status else kind
    if not isinstance(error, OSError):
        return FailureKind.BROKEN
    if isinstance(error, FileExistsError):
        return FailureKind.EXISTS
    if isinstance(error, FileNotFoundError):
        return FailureKind.MISSING
    if isinstance(error, PermissionError) or error.errno in DENIED:
        return FailureKind.DENIED
    if error.errno in FULL:
        return FailureKind.FULL
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _TRANSIENT_ERRNO:
        return FailureKind.TRANSIENT
    return FailureKind.BROKEN


def describe(error: BaseException | None) -> str:
    """Name a failure without its text, which may repeat URLs and credentials."""
    code = _code(error)
    if code:
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__} ({errno.errorcode.get(error.errno, error.errno)})"
    status = _status(error)
    return f"{type(error).__name__} ({status})" if status else type(error).__name__


def failure(kind: FailureKind, error: BaseException, where: str) -> StorageError:
    """Return the storage error for a failure that no retry mends."""
    if kind is FailureKind.DENIED:
        problem = f"the store {where} refused permission: {describe(error)}"
        return StoreDeniedError(problem, hint="check the credentials in the environment, and what they allow")
    code = _code(error)
    if code in _PLACES:
        return NoPlaceError(where, _PLACES[code], code)
    if _WRONG_REGION in str(error):
        problem = f"the bucket of the store {where} is in another region"
        return StoreUnavailableError(problem, hint="set AWS_REGION to the bucket's region")
    text = f"the store {where} failed: {describe(error)}"
    if kind is FailureKind.FULL:
        return OutOfSpaceError(text, hint="free some space in the store")
    return StoreUnavailableError(text, hint="check the store's URL and options")


def _status(error: BaseException | None) -> int:
    """Return the HTTP status in the text of an error of obstore's, 0 without one."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def _code(error: BaseException | None) -> str:
    """Return the code in a server's reply, which obstore repeats."""
    match = _CODE.search(str(error))
    return match[1] if match else ""
