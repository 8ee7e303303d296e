"""Pools that work on many items: this process, threads or processes; a `FuseryError` is the outcome of its item."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

from fusery.storage.errors import FuseryError

from ..errors import BadInputError
from ..record import Record, described
from .workspace import Workspace

if TYPE_CHECKING:
    from .settings import Settings


T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Items per worker that are handed out at a time: enough to keep it busy, few enough to be taken back."""

MOST_JOBS = 256
_LOSSES = 3


class Failure(Record, kw_only=False):
    """Why an item failed."""

    code: str = described("of the kind of error")
    message: str = described("one sentence")
    hint: str | None = described("what to do about it", default=None)

    @classmethod
    def of(cls, error: FuseryError) -> Failure:
        """Return what an error says."""
        return cls(error.code, error.message, error.hint)


LOST = Failure("worker_lost", "its process was killed several times", "run the command again")


@dataclass(frozen=True, slots=True)
class ItemOutcome(Generic[T, R]):
    """What became of one item: a result or a failure."""

    item: T
    result: R | None
    failure: Failure | None = None


class Workers(ABC):
    """Runs one function on many items."""

    @abstractmethod
    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item, in the order in which they are done; begin no more when the caller stops."""


def attempt(work: Callable[[T], R], item: T) -> ItemOutcome[T, R]:
    """Do one item."""
    try:
        return ItemOutcome(item, work(item))
    except FuseryError as error:
        return ItemOutcome(item, None, Failure.of(error))


class Serial(Workers):
    """One after the other, in this thread."""

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item."""
        for item in items:
            yield attempt(work, item)


@dataclass(frozen=True, slots=True)
class Threads(Workers):
    """Threads of this process: for work that waits, or hashes."""

    jobs: int

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item."""
        pool = ThreadPoolExecutor(self.jobs)
        try:
            for item, future in _as_done(pool, work, items, self.jobs * AHEAD, []):
                yield future.result() if not future.cancelled() else ItemOutcome(item, None, LOST)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class ProcessPool(Workers):
    """Processes on this machine: for work that computes.  If one is killed, a new pool does the rest, up to three times."""

    jobs: int

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item."""
        left = iter(items)
        for _ in range(_LOSSES):
            lost: list[T] = []
            yield from self._round(work, left, lost)
            if not lost:
                return
            left = itertools.chain(lost, left)
        yield from (ItemOutcome(item, None, LOST) for item in left)

    def _round(
        self, work: Callable[[T], R], items: Iterator[T], lost: list[T]
    ) -> Iterator[ItemOutcome[T, R]]:
        others = set(multiprocessing.active_children())
        with _safe_path():  # which starts a process of Python's own beside them
            pool = ProcessPoolExecutor(
                self.jobs,
                mp_context=_Alone(),
                # Ctrl-C goes to the whole group; the parent decides.
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),
            )
        stop = threading.Event()
        outcomes: SimpleQueue[ItemOutcome[T, R] | BaseException | None] = SimpleQueue()

        def drive() -> None:
            end: BaseException | None = None
            try:
                until = itertools.takewhile(lambda _: not stop.is_set(), items)
                for _, future in _as_done(pool, work, until, self.jobs * AHEAD, lost):
                    outcomes.put(future.result())
            except BaseException as error:  # noqa: BLE001 - raised again where the outcomes are read
                end = error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                outcomes.put(end)

        # A Ctrl-C, which only this thread gets, would leave a future or the pool locked for ever if it used them.
        driver = threading.Thread(target=drive, name="processes", daemon=True)
        driver.start()
        finished = False
        try:
            while isinstance(outcome := outcomes.get(), ItemOutcome):
                yield outcome
            finished = True
        finally:
            stop.set()
            if not finished:
                # Interrupted: what is half done is not waited for.  It left nothing, and its leases are those of the dead.
                for child in set(multiprocessing.active_children()) - others:
                    child.terminate()
            driver.join()
        if outcome is not None:
            raise outcome


class _Process(SpawnProcess):
    """A process that does not run the caller's script again, as Python's own would."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            with _safe_path():
                super().start()
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let processes that begin import nothing from the folder that one is in, which may be anybody's: Python's own would."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


class _Alone(SpawnContext):
    Process = _Process


def _as_done(
    pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int, lost: list[T]
) -> Iterator[tuple[T, Future[ItemOutcome[T, R]]]]:
    """Hand out items, so many at a time, and yield them as they are done; those of a broken pool go to `lost`."""
    rest = iter(items)
    running: dict[Future[ItemOutcome[T, R]], T] = {}
    done: SimpleQueue[Future[ItemOutcome[T, R]]] = SimpleQueue()
    broken = False
    while True:
        for item in itertools.islice(rest, 0 if broken else ahead - len(running)):
            try:
                future = pool.submit(attempt, work, item)
            except BrokenProcessPool:
                broken = True
                lost.append(item)
                break
            running[future] = item
            future.add_done_callback(done.put)
        if not running:
            return
        future = done.get()
        item = running.pop(future)
        if isinstance(future.exception(), BrokenProcessPool):
            broken = True
            lost.append(item)
        else:
            yield item, future


@dataclass(frozen=True, slots=True)
class Site:
    """Which registry the work is for."""

    store: str
    settings: Settings | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Yield the parts of the registry."""
        from .settings import Settings

        workspace = Workspace(self.settings or Settings.load())
        try:
            if workspace.store.identify() != self.store:
                hint = "give the workers the same FUSERY_DATABASE_URL and FUSERY_STORE_URL"
                raise BadInputError("a worker is set up for another registry", hint=hint)
            yield workspace
        finally:
            workspace.close()
