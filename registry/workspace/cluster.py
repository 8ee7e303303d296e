"""Work on a cluster: `dask.distributed` hands items to machines, and to others when one of them dies.

The workers open the registry by their own settings: no URL, option or credential goes over the wire, and a worker that
is set up for another registry refuses.  A dask scheduler runs any code that it receives, and must be trusted.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ..errors import BadInputError, MissingExtraError, RegistryError
from .executor import AHEAD, LOST, MOST_JOBS, ItemOutcome, Workers, attempt

T = TypeVar("T")
R = TypeVar("R")

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


class Cluster(Workers):
    """The workers of a dask scheduler."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("tcp://", "tls://")):
            problem = "FUSERY_CLUSTER is not the address of a dask scheduler"
            raise BadInputError(problem, hint="FUSERY_CLUSTER=tcp://host:8786")
        self._address = address

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[ItemOutcome[T, R]]:
        """Yield an outcome for every item; see `Workers.run`."""
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


CLUSTER = "FUSERY_CLUSTER"


def cluster_address() -> str | None:
    """Return the address of the dask scheduler in `FUSERY_CLUSTER`, None for work on this machine."""
    return os.environ.get(CLUSTER) or None


def check_jobs(jobs: int | None) -> int:
    """Return how many items to work on at a time: by default one per processor, at most four."""
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise BadInputError(f"{jobs} jobs at a time are not possible", hint=f"--jobs 1 to {MOST_JOBS}")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return jobs or min(4, processors)
