"""Calls to an fsspec file system: each with a deadline and retries, several at a time where the file system can."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import tenacity
from fsspec.spec import AbstractFileSystem

from .errors import StorageError, StoreUnavailableError
from .plugins import Plugin, PluginError, blaming
from .remote_errors import Kind, RemoteError, classify, describe, failure, foreign_errors
from .secrets import without_secrets

DEADLINE = 45.0
"""Seconds without any progress after which an operation is given up."""

ATTEMPTS = 8
"""How often a call is tried within the deadline."""

Call = str | Callable[..., Any]
"""The name of a method of the file system, or a coroutine function whose first argument is the file system."""


_ENDED = (asyncio.CancelledError, GeneratorExit)
"""What a call in an event loop meets that nobody waits for any more."""


class StoreSilentError(StoreUnavailableError):
    """The store did not answer within the deadline, or failed in passing until then."""


class _Transient(Exception):
    """Worth another try."""


class RemoteCalls:
    """The calls of one store to its file system.

    A call that fails in passing is tried again, here and nowhere else: what the libraries below try by themselves is
    switched off, since it multiplies (175 seconds of s3fs against a server that hangs).

    Attributes:
        file_system: the fsspec file system.
        where: the store's URL, for messages.
        deadline: seconds without progress after which an operation is given up.
        plugin: whose file system it is; None for one that fusery knows.
    """

    def __init__(
        self,
        file_system: AbstractFileSystem,
        where: str,
        deadline: float = DEADLINE,
        plugin: Plugin | None = None,
    ) -> None:
        """Wrap a file system that nobody else uses."""
        self.plugin = plugin
        self.file_system = file_system
        self.where = where
        self.deadline = deadline
        self._progress_at = time.monotonic()
        self._silent = False

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
        """Make a call and wait for it.

        Raises:
            RemoteError: the name exists, or is missing.
            StoreDeniedError: the credentials are missing or do not suffice.
            OutOfSpaceError: the store is full.
            StoreSilentError: it did not answer in time.
            StoreUnavailableError: it failed.
            PluginError: it is a plugin's, and failed in a way that no file system may.
        """
        return self.wait(self.start(call, *arguments, **options))

    def tidy(self, call: Call, *arguments: Any) -> None:
        """Make a call that only tidies up: it may fail, and a store that does not answer is not asked.

        What stays is swept one day; what went wrong before is the failure to report, and in time.
        """
        if not self._silent:
            with suppress(RemoteError, StorageError, PluginError):
                self.run(call, *arguments)

    def start(self, call: Call, *arguments: Any, **options: Any) -> Future[Any]:
        """Begin a call; on a file system that is not asynchronous, it is over when this returns.

        The future's exceptions are for `wait` to read; `cancel` ends the call.
        """
        self.progressed()
        if self.file_system.async_impl:
            return asyncio.run_coroutine_threadsafe(
                self._retried(call, arguments, options), self.file_system.loop
            )
        future: Future[Any] = Future()
        try:
            future.set_result(self._policy(tenacity.Retrying)(self._attempt, call, arguments, options))
        except (_Transient, RemoteError, StorageError) as error:
            future.set_exception(error)
        return future

    def wait(self, future: Future[Any]) -> Any:
        """Return the result of a call that `start` began; raises as `run`."""
        try:
            while True:
                try:
                    result = future.result(timeout=max(0.0, self._left()))
                    self.progressed()
                    self._silent = False
                    return result
                except FutureTimeout:
                    if self._left() <= 0:
                        raise self._silence("no answer in time") from None
        except _Transient as error:
            raise self._silence(describe(error.__cause__)) from error.__cause__
        finally:
            # Also on Ctrl-C; a call that is done does not notice.
            future.cancel()

    def in_order(self, starts: Iterable[Callable[[], Future[Any]]], ahead: int) -> Iterator[Any]:
        """Return the results of many calls in their order, with up to `ahead` of them under way.

        Each element of `starts` begins one call; it is taken only when there is room for it, so that a generator of
        them needs the memory of `ahead`.  When one fails, or the caller stops, the others are cancelled.
        """
        waiting: deque[Future[Any]] = deque()
        try:
            for start in starts:
                waiting.append(start())
                if len(waiting) >= ahead:
                    yield self.wait(waiting.popleft())
            while waiting:
                yield self.wait(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    async def _retried(self, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return await self._policy(tenacity.AsyncRetrying)(self._attempt_async, call, arguments, options)

    def _policy(self, retrying: type[Any]) -> Any:
        return retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=self._is_enough,
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= ATTEMPTS or self._left() <= state.upcoming_sleep

    def _left(self) -> float:
        return self._progress_at + self.deadline - time.monotonic()

    def _attempt(self, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            with blaming(self.plugin, besides=foreign_errors()):
                if isinstance(call, str):
                    return getattr(self.file_system, call)(*arguments, **options)
                return call(self.file_system, *arguments, **options)
        except foreign_errors() as error:
            raise self._meaning(error) from without_secrets(error)

    async def _attempt_async(self, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            with blaming(self.plugin, besides=(*foreign_errors(), *_ENDED)):
                if isinstance(call, str):
                    return await getattr(self.file_system, f"_{call}")(*arguments, **options)
                return await call(self.file_system, *arguments, **options)
        except foreign_errors() as error:
            raise self._meaning(error) from without_secrets(error)

    def _meaning(self, error: BaseException) -> Exception:
        kind = classify(error)
        if kind is Kind.TRANSIENT:
            return _Transient()
        if kind in (Kind.EXISTS, Kind.MISSING):
            return RemoteError(kind)
        return failure(kind, error, self.where)

    def _silence(self, reason: str) -> StoreSilentError:
        self._silent = True
        return StoreSilentError(
            f"the store {self.where} did not answer: {reason}",
            hint="check the network and the store's URL, then run the command again",
        )


class Body:
    """The bytes of one request, which is perhaps sent more than once.

    On a slow line it is progress when the first try takes on bytes.  A second one takes them all anew: were that
    progress too, a server that never answers would be waited for as often as it is tried.
    """

    def __init__(self, data: bytes, calls: RemoteCalls) -> None:
        """Hold the bytes."""
        self.data = data
        self._calls: RemoteCalls | None = calls

    def open(self) -> io.BytesIO:
        """Return the bytes as a file, for one try."""
        calls, self._calls = self._calls, None
        return io.BytesIO(self.data) if calls is None else _Told(self.data, calls)


class _Told(io.BytesIO):
    """A file in memory that tells when it is read."""

    def __init__(self, data: bytes, calls: RemoteCalls) -> None:
        super().__init__(data)
        self._calls = calls

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on."""
        self._calls.progressed()
        return super().read(size)


def age(stamp: object) -> float:
    """Return the seconds since a time as backends write it; what has no time is new, so that it is not swept."""
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp() if stamp.tzinfo else stamp.replace(tzinfo=UTC).timestamp()
    return max(0.0, time.time() - stamp) if isinstance(stamp, int | float) else 0.0
