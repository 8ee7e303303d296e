"""Pools that work on many items: this process, several processes or a cluster; a `FuseryError` is the outcome of its item.

On a cluster, `dask.distributed` hands items to machines, and to others when one of them dies.  The workers open the registry
by their own settings, and refuse another one: nothing secret goes over the wire.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any, Generic, TypeVar

from fusery.storage.errors import FuseryError
from fusery.storage.processes import environment

from ..errors import BadInputError, MissingExtraError, RegistryError
from ..record import Record, described
from .settings import Settings
from .workspace import Workspace

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # items per worker handed out at a time: enough to keep it busy, few enough to be taken back

MOST_JOBS = 256
_LOSSES = 3
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Without it, Python's processes would import from the current folder, which may belong to another user."""


class Failure(Record, kw_only=False):
    """Why an item failed."""

    code: str = described("of the kind of error")
    message: str = described("one sentence")
    hint: str | None = described("what to do about it", default=None)


LOST = Failure("worker_lost", "its process was killed several times", "run the command again")


@dataclass(frozen=True, slots=True)
class ItemOutcome(Generic[T, R]):
    """What became of one item: a result or a failure."""

    item: T
    result: R | None
    failure: Failure | None = None


def attempt(work: Callable[[T], R], item: T) -> ItemOutcome[T, R]:
    """Do one item."""
    try:
        return ItemOutcome(item, work(item))
    except FuseryError as error:
        return ItemOutcome(item, None, Failure(error.code, error.message, error.hint))


class Serial:
    """Runs items one at a time in this thread."""

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield each outcome as its item completes; start no new items once the caller stops."""
        for item in items:
            yield attempt(work, item)


@dataclass(frozen=True, slots=True)
class ProcessPool:
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
        with environment(_SAFE_PATH):  # which starts a process of Python's own beside them
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
                for outcome in _as_done(pool, work, until, self.jobs * AHEAD, lost):
                    outcomes.put(outcome)
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
            with environment(_SAFE_PATH):
                super().start()
        finally:
            sys.modules["__main__"] = main


class _Alone(SpawnContext):
    Process = _Process


def _as_done(
    pool: ProcessPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int, lost: list[T]
) -> Iterator[ItemOutcome[T, R]]:
    """Hand out items, so many at a time, and yield the outcomes as they are done; items of a broken pool go to `lost`."""
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
            yield future.result()


@dataclass(frozen=True, slots=True)
class Site:
    """Which registry the work is for."""

    store: str
    settings: Settings | None = None

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Yield the parts of the registry."""
        workspace = Workspace(self.settings or Settings.load())
        try:
            if workspace.store.identify() != self.store:
                hint = "give the workers the same FUSERY_DATABASE_URL and FUSERY_STORE_URL"
                raise BadInputError("a worker is set up for another registry", hint=hint)
            yield workspace
        finally:
            workspace.close()


# Seconds.
PATIENCE = 20  # to wait for the scheduler, and for a first worker
ALONE = 35  # to wait for another worker when the last one went away
ANSWER = 20  # for the scheduler to answer while it works: it may be on a machine with much to do
GOODBYE = 10  # for the scheduler to hear that the client goes
LOOK = 5  # after which the scheduler is asked whether it still has workers, if nothing was done
FETCH = 5  # after which the same is asked, if a result does not come: with its worker it may be gone

_LEFT = "it went away, and the work with it"


class ClusterError(RegistryError):
    """The dask cluster cannot be reached, or the connection was lost."""


class Cluster:
    """The workers of a dask scheduler."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("tcp://", "tls://")):
            problem = "FUSERY_CLUSTER is not the address of a dask scheduler"
            raise BadInputError(problem, hint="FUSERY_CLUSTER=tcp://host:8786")
        self._address = address

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item; see `Serial.run`."""
        with self._connected() as client:
            from distributed.scheduler import KilledWorker

            rest = iter(items)
            threads = sum(client.nthreads().values())
            running: dict[str, T] = {}
            done: SimpleQueue[Any] = SimpleQueue()

            def hand_out(count: int) -> None:
                for item in itertools.islice(rest, count):
                    future = client.submit(attempt, work, item, pure=False)
                    running[future.key] = item
                    future.add_done_callback(done.put)

            hand_out(max(2, threads * AHEAD))
            while running:
                future = self._wait(client, lambda: done.get(timeout=LOOK))
                item = running.pop(future.key)
                if future.status == "cancelled":
                    raise self._error(_LEFT)
                error = future.exception() if future.status == "error" else None
                if isinstance(error, KilledWorker):
                    yield ItemOutcome(item, None, LOST)
                elif error is not None:
                    raise error
                else:
                    try:
                        # A result that went with its worker before it was fetched is computed once more.
                        yield self._wait(client, partial(future.result, timeout=FETCH))
                    except (OSError, CancelledError) as lost:
                        if future.status == "error":
                            raise
                        raise self._error(_LEFT) from lost
                hand_out(1)

    def _wait(self, client: Any, get: Callable[[], Any]) -> Any:
        """Return what a call with a timeout returns; dask itself would wait for ever for workers or a stopped scheduler."""
        alone_since = None
        while True:
            try:
                return get()
            except (Empty, TimeoutError):
                pass
            try:
                alone = not client.sync(client.scheduler.ncores, callback_timeout=ANSWER)
            except (OSError, TimeoutError) as error:
                silent = isinstance(error, TimeoutError) and client.status == "running"
                reason = "its scheduler does not answer any more" if silent else _LEFT
                raise self._error(reason) from error
            now = time.monotonic()
            alone_since = (alone_since or now) if alone else None
            if alone_since is not None and now - alone_since > ALONE:
                raise self._error("all of its workers went away")

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtraError("work on a cluster", "dask") from error
        # Its loggers print tracebacks, and have levels of their own, so that the parent's would not do.
        for name in ["distributed", *logging.root.manager.loggerDict]:
            if name.partition(".")[0] in ("distributed", "tornado"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            client = Client(self._address, timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise self._error("no scheduler answers") from error
        try:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError as error:
                raise self._error("it has no workers") from error
            yield client
        finally:
            # Also on Ctrl-C: what the client asked for is cancelled when it goes.
            client.close(timeout=GOODBYE)

    def _error(self, reason: str) -> ClusterError:
        hint = "start dask scheduler and dask worker, or unset FUSERY_CLUSTER; run the command again"
        return ClusterError(f"the cluster {self._address} cannot be used: {reason}", hint=hint)


Workers = Serial | ProcessPool | Cluster


def workers_of(workspace: Workspace, jobs: int) -> tuple[Workers, Site]:
    """Return what works on so many items at a time: the cluster in `FUSERY_CLUSTER`, or processes of this machine."""
    store = str(workspace.store.identify())
    if address := os.environ.get("FUSERY_CLUSTER"):
        return Cluster(address), Site(store)
    # Processes: the model library is not thread-safe.
    return ProcessPool(jobs) if jobs > 1 else Serial(), Site(store, workspace.settings)


def check_jobs(jobs: int | None) -> int:
    """Return how many items to work on at a time: by default one per processor, at most four."""
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise BadInputError(f"{jobs} jobs at a time are not possible", hint=f"--jobs 1 to {MOST_JOBS}")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return jobs or min(4, processors)
