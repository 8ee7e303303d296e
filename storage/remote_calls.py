"""Calls to an fsspec file system: each with a deadline and retries, and every way of failing turned into one of ours."""

from __future__ import annotations

import asyncio
import errno
import sys
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import tenacity
from fsspec.callbacks import Callback
from fsspec.spec import AbstractFileSystem

from .errors import OutOfSpaceError, StorageError, StoreDeniedError, StoreUnavailableError
from .failures import DENIED, FULL

DEADLINE = 60.0
"""Seconds without any progress after which an operation is given up."""

ATTEMPTS = 8
"""How often an operation is tried within the deadline."""


class Kind(Enum):
    """What a failure of a file system means."""

    EXISTS = "exists"
    MISSING = "missing"
    DENIED = "denied"
    FULL = "full"
    TRANSIENT = "transient"
    BROKEN = "broken"


class RemoteError(Exception):
    """A failure that the store decides about: the name is taken, or it is not there.

    Attributes:
        kind: `EXISTS` or `MISSING`.
    """

    def __init__(self, kind: Kind) -> None:
        """Carry the kind."""
        super().__init__(kind.value)
        self.kind = kind


class _Transient(Exception):
    """Worth another try."""


# What the libraries below fsspec let through beside OSError.  They are looked up by name among the modules that are
# loaded: one that is not loaded cannot have raised anything, and loading it would take a second.
_CLASSES: tuple[tuple[str, str, Kind], ...] = (
    ("botocore.exceptions", "NoCredentialsError", Kind.DENIED),
    ("botocore.exceptions", "PartialCredentialsError", Kind.DENIED),
    ("botocore.exceptions", "ProfileNotFound", Kind.DENIED),
    ("azure.core.exceptions", "ClientAuthenticationError", Kind.DENIED),
    ("google.auth.exceptions", "GoogleAuthError", Kind.DENIED),
    ("azure.core.exceptions", "ResourceExistsError", Kind.EXISTS),
    ("azure.core.exceptions", "ResourceNotFoundError", Kind.MISSING),
    ("aiohttp", "ClientError", Kind.TRANSIENT),
    ("botocore.exceptions", "HTTPClientError", Kind.TRANSIENT),
    ("botocore.exceptions", "ConnectionError", Kind.TRANSIENT),
    ("botocore.exceptions", "FlexibleChecksumError", Kind.TRANSIENT),
    ("botocore.exceptions", "ResponseStreamingError", Kind.TRANSIENT),
    ("azure.core.exceptions", "ServiceRequestError", Kind.TRANSIENT),
    ("azure.core.exceptions", "ServiceResponseError", Kind.TRANSIENT),
    ("gcsfs.retry", "ChecksumError", Kind.TRANSIENT),
    ("botocore.exceptions", "BotoCoreError", Kind.BROKEN),
    ("botocore.exceptions", "ClientError", Kind.BROKEN),
    ("azure.core.exceptions", "AzureError", Kind.BROKEN),
    ("gcsfs.retry", "HttpError", Kind.BROKEN),
)

_TRANSIENT_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        "EBUSY", "EREMOTEIO", "EIO", "EAGAIN", "EINTR", "EPIPE", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH",
        "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENETRESET", "ENETDOWN",
    )
    if hasattr(errno, name)
)  # fmt: skip


def foreign_errors() -> tuple[type[BaseException], ...]:
    """Return every class of exception that a call to a file system may raise."""
    loaded = [getattr(sys.modules.get(module), name, None) for module, name, _ in _CLASSES]
    # botocore raises a plain ValueError for an endpoint that is no URL.
    return (OSError, asyncio.TimeoutError, ValueError, *(found for found in loaded if found is not None))


def classify(error: BaseException) -> Kind:
    """Return what an exception of a file system means."""
    if _code(error) in ("PreconditionFailed", "ConditionNotMet"):
        # s3fs makes this FileExistsError only for servers that name the condition; SeaweedFS does not.
        return Kind.EXISTS
    if _code(error) in ("NoSuchBucket", "ContainerNotFound"):
        return Kind.BROKEN
    for module, name, kind in _CLASSES:
        found = getattr(sys.modules.get(module), name, None)
        if found is not None and isinstance(error, found):
            return kind
    return _classify_os_error(error) if isinstance(error, OSError) else Kind.BROKEN


def _classify_os_error(error: OSError) -> Kind:
    if isinstance(error, FileExistsError):
        return Kind.EXISTS
    if isinstance(error, FileNotFoundError):
        return Kind.MISSING
    if isinstance(error, PermissionError) or error.errno in DENIED:
        return Kind.DENIED
    if error.errno in FULL:
        return Kind.FULL
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _TRANSIENT_ERRNO:
        return Kind.TRANSIENT
    return Kind.BROKEN


def _code(error: BaseException | None) -> str:
    """Return the code in the reply of an S3 server, which s3fs keeps in the cause of its own exception."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


class RemoteCalls:
    """The calls of one store to its file system.

    Attributes:
        file_system: the fsspec file system.
        where: the store's URL, for messages.
        deadline: seconds without progress after which an operation is given up.
    """

    def __init__(self, file_system: AbstractFileSystem, where: str, deadline: float = DEADLINE) -> None:
        """Wrap a file system that nobody else uses."""
        self.file_system = file_system
        self.where = where
        self.deadline = deadline
        self._progress_at = time.monotonic()
        if hasattr(type(file_system), "retries"):
            # s3fs retries inside, five times and nested: 175 seconds against a server that hangs.
            file_system.retries = 1

    def progressed(self) -> None:
        """Tell that bytes have moved: the deadline counts from now on."""
        self._progress_at = time.monotonic()

    def run(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system.

        Raises:
            RemoteError: the name exists, or is missing.
            StoreDeniedError: the credentials are missing or do not suffice.
            OutOfSpaceError: the store is full.
            StoreUnavailableError: it did not answer in time, or failed.
        """
        self.progressed()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=self._is_enough,
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        try:
            return retrying(self._attempt, method, arguments, options)
        except _Transient as error:
            raise StoreUnavailableError(
                f"the store {self.where} did not answer: {_describe(error.__cause__)}",
                hint="check the network and the store's URL, then run the command again",
            ) from error.__cause__

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= ATTEMPTS or self._left() <= state.upcoming_sleep

    def _left(self) -> float:
        return self._progress_at + self.deadline - time.monotonic()

    def _attempt(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            return self._call(method, arguments, options)
        except foreign_errors() as error:
            kind = classify(error)
            if kind is Kind.TRANSIENT:
                raise _Transient from error
            if kind in (Kind.EXISTS, Kind.MISSING):
                raise RemoteError(kind) from error
            raise self._failure(kind, error) from error

    def _call(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not self.file_system.async_impl:
            return getattr(self.file_system, method)(*arguments, **options)
        coroutine = getattr(self.file_system, f"_{method}")(*arguments, **options)
        future = asyncio.run_coroutine_threadsafe(coroutine, self.file_system.loop)
        try:
            while True:
                try:
                    return future.result(timeout=max(0.0, self._left()))
                except FutureTimeout:
                    if future.done() or self._left() <= 0:
                        raise
        finally:
            # Also on Ctrl-C; a call that is done does not notice.
            future.cancel()

    def _failure(self, kind: Kind, error: BaseException) -> StorageError:
        text = f"the store {self.where} failed: {_describe(error)}"
        if kind is Kind.DENIED:
            return StoreDeniedError(
                f"the store {self.where} refused permission: {_describe(error)}",
                hint="check the credentials in the environment, and what they allow",
            )
        if kind is Kind.FULL:
            return OutOfSpaceError(text, hint="free some space in the store")
        return StoreUnavailableError(text, hint="check the store's URL and options")


def _describe(error: BaseException | None) -> str:
    """Name a failure without its text, which may repeat URLs and credentials."""
    code = _code(error)
    if code:
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__} ({errno.errorcode.get(error.errno, error.errno)})"
    return type(error).__name__


class Watch(Callback):  # type: ignore[misc]
    """Takes fsspec's word that bytes have moved."""

    def __init__(self, calls: RemoteCalls, progress: Callable[[int], None] | None, size: int) -> None:
        """Tell `calls`, so that its deadline moves, and `progress`, up to `size` bytes."""
        super().__init__()
        self._limit = size
        self._calls = calls
        self._progress = progress
        self._told = 0

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        """Note the bytes moved so far: some file systems tell the sum, others each piece, and both come here."""
        self._calls.progressed()
        # After a retry the pieces add up to more than there is.
        self.tell_up_to(min(self.value, self._limit))

    def tell_up_to(self, total: int) -> None:
        """Tell `progress` of all bytes up to `total` that it was not told of."""
        if total > self._told:
            if self._progress:
                self._progress(total - self._told)
            self._told = total


def age(stamp: object) -> float:
    """Return the seconds since a time as backends write it; what has no time is new, so that it is not swept."""
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp() if stamp.tzinfo else stamp.replace(tzinfo=UTC).timestamp()
    return max(0.0, time.time() - stamp) if isinstance(stamp, int | float) else 0.0
