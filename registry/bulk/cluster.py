"""Work on a cluster: `dask.distributed` hands items to machines, and to others when one of them dies.

The workers open the registry by their own settings: no URL, option or credential goes over the wire, and a worker that
is set up for another registry refuses.  A dask scheduler runs what it is sent, so that it has to be one that is trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import BadInputError, MissingExtraError, RegistryError
from .executor import AHEAD, LOST, Outcome, Workers, attempt

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 20
"""Seconds to wait for the scheduler, and for a first worker."""


class ClusterError(RegistryError):
    """The cluster cannot be reached, or went away."""

    code = "cluster"


class Cluster(Workers):
    """The workers of a dask scheduler.

    Args:
        address: `tcp://host:port` or `tls://host:port`.

    Raises:
        BadInputError: it is no such address.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("tcp://", "tls://")):
            raise BadInputError(
                "FUSERY_CLUSTER is not the address of a dask scheduler", hint="FUSERY_CLUSTER=tcp://host:8786"
            )
        self._address = address

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Yield an outcome for every item; see `Workers.run`.

        Raises:
            MissingExtraError: dask is not installed.
            ClusterError: no scheduler answers, or it has no workers.
        """
        with self._connected() as client:
            from distributed import as_completed
            from distributed.scheduler import KilledWorker

            rest = iter(items)
            threads = sum(client.nthreads().values())
            running: dict[str, T] = {}
            done = as_completed([], loop=client.loop)
            self._hand_out(client, work, rest, running, done, max(2, threads * AHEAD))
            for future in done:
                item = running.pop(future.key)
                if future.status == "cancelled":
                    raise self._gone("it cancelled the work")
                error = future.exception() if future.status == "error" else None
                if error is None:
                    yield future.result()
                elif isinstance(error, KilledWorker):
                    yield Outcome(item, None, LOST)
                else:
                    raise error
                self._hand_out(client, work, rest, running, done, 1)

    def _hand_out(
        self,
        client: Any,
        work: Callable[[T], R],
        rest: Iterator[T],
        running: dict[str, T],
        done: Any,
        count: int,
    ) -> None:
        for _, item in zip(range(count), rest, strict=False):
            future = client.submit(attempt, work, item, pure=False)
            running[future.key] = item
            done.add(future)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtraError("work on a cluster", "dask") from error
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            client = Client(self._address, timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise self._gone("no scheduler answers") from error
        try:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError as error:
                raise self._gone("it has no workers") from error
            yield client
        finally:
            # Also on Ctrl-C: what the client asked for is cancelled when it goes.
            client.close(timeout=PATIENCE)

    def _gone(self, why: str) -> ClusterError:
        return ClusterError(
            f"the cluster {self._address} cannot be used: {why}",
            hint="start dask scheduler and dask worker, or leave FUSERY_CLUSTER unset to work here",
        )
