"""Sharing between tenants: quotas of a limited room, fair queues, throttling by time taken, and threads that use them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ..registry.runtime.document import ServingLimits, Tenant
from ..registry.runtime.errors import Refusal
from .metrics import Metrics

SPARE_SECONDS = 1.0
"""Of rest that an owner can be ahead."""

AWAY_SECONDS = 2.0
"""For which an owner without requests still counts as present: it may ask one thing after the other."""

BODIES_BYTES = 32 << 20
"""Bytes of requests that are being read and prepared, of all tenants together."""

REST = 4
"""A tenant gets a fifth of a thread at most while there are others."""

POLL_SECONDS = 0.01
"""Between two looks whether a throttled owner may go on."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Quota:
    """How much each owner holds of a limited room: answers, bytes, slots of a batch."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many owners hold something."""
        return len(self._held)

    def owners(self) -> list[str]:
        """Return the owners."""
        return list(self._held)

    @property
    def total(self) -> int:
        """What all hold together."""
        return self._held.total()

    def each(self) -> list[str]:
        """Return the owners, each as often as it holds one."""
        return list(self._held.elements())

    def of(self, owner: str) -> int:
        """Return what one owner holds."""
        return self._held[owner]

    def take(self, owner: str, count: int = 1) -> None:
        """Let an owner hold more, whether there is room or not."""
        self._held[owner] += count

    def give(self, owner: str, count: int = 1) -> None:
        """Let an owner hold less."""
        self._held[owner] -= count
        if not self._held[owner]:
            del self._held[owner]

    def has_room(self, owner: str, room: int, count: int = 1) -> bool:
        """Return whether an owner may take more.

        As long as there is room, every owner may.  In a full room, owners with less than an equal share still may, up to
        twice the room in all: the first ones are not driven out, and keep nobody out.
        """
        if self.total + count <= room:
            return True
        owners = len(self._held) + (owner not in self._held)
        share = max(room // owners, count if owner not in self._held else 1)
        return self.of(owner) + count <= share and self.total + count <= 2 * room


class TenantQueues(Generic[K, T]):
    """A queue for each owner, served in turns."""

    def __init__(self) -> None:
        self._queues: dict[K, deque[T]] = {}  # in the order of turns

    def __len__(self) -> int:
        """Return how many items wait, of all owners."""
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        """Yield all items that wait."""
        for queue in self._queues.values():
            yield from queue

    def push(self, owner: K, item: T) -> None:
        """Put an item at the end of an owner's queue."""
        self._queues.setdefault(owner, deque()).append(item)

    def pop(
        self, held: Callable[[K], Any] | None = None, may: Callable[[K], bool] = lambda owner: True
    ) -> tuple[K, T] | None:
        """Return the next item with its owner: of those that `may`, who holds least, and then who waited longest."""
        for owner in sorted(self._queues, key=held) if held is not None else list(self._queues):
            if may(owner):
                queue = self._queues.pop(owner)
                item = queue.popleft()
                if queue:
                    self._queues[owner] = queue
                return owner, item
        return None

    def remove(self, owner: K, item: T) -> bool:
        """Drop an item; return whether it waited."""
        queue = self._queues.get(owner, deque())
        if item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[owner]
        return True


class Throttle:
    """Lets owners rest for the time that they took, as long as others are present.

    An owner may take one part in `factor` + 1 of the time, and up to `SPARE_SECONDS` of rest in advance.
    """

    def __init__(self, factor: float, present: Callable[[], Iterable[str]]) -> None:
        self._factor, self._present = factor, present
        self._until: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def charge(self, owner: str, seconds: float) -> None:
        """Let an owner rest for the time that it took."""
        begin = max(self._until.get(owner, 0.0), time.monotonic() - SPARE_SECONDS)
        self._until[owner] = begin + self._factor * seconds

    def resting(self, owner: str) -> bool:
        """Return whether an owner must rest."""
        return self._until.get(owner, 0.0) > time.monotonic() and self.has_others(owner)

    def has_others(self, owner: str) -> bool:
        """Return whether other owners are present."""
        now = time.monotonic()
        self._seen |= dict.fromkeys(self._present(), now)
        return any(other != owner and seen > now - AWAY_SECONDS for other, seen in self._seen.items())

    def forgive(self) -> None:
        """Let no owner rest: there is nothing else to do."""
        self._until.clear()


class Admission:
    """Counts answers in progress or waiting, and bytes of requests, by tenant."""

    def __init__(self, limits: Callable[[], ServingLimits], metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._answers, self._bytes = Quota(), Quota()

    @property
    def total(self) -> int:
        """Answers in progress or waiting."""
        return self._answers.total

    def owners(self) -> list[str]:
        """Return the tenants with requests in progress."""
        return self._answers.owners()

    @contextmanager
    def answers(self, tenant: Tenant | None, count: int, *, beside: int = 0) -> Iterator[None]:
        """Count answers while the block runs, besides those of the same request that are counted already."""
        owner, own = (tenant.name, tenant.concurrent) if tenant else ("", None)
        room = self._limits().waiting
        most = min(room, own or room)
        held = self._answers.of(owner)
        if count + beside > most:
            raise Refusal(400, f"this key can have up to {most} answers at once", param="n")
        if count and (held + count > most or not self._answers.has_room(owner, room, count)):
            raise _try_again()
        self._answers.take(owner, count)
        self._metrics.active.labels(owner).set(held + count)
        try:
            yield
        finally:
            self._answers.give(owner, count)
            self._metrics.active.labels(owner).set(self._answers.of(owner))

    @contextmanager
    def bytes(self, owner: str, count: int) -> Iterator[None]:
        """Count the bytes of a request's body while the block runs."""
        if not self._bytes.has_room(owner, max(BODIES_BYTES, count), count):
            raise _try_again()
        self._bytes.take(owner, count)
        try:
            yield
        finally:
            self._bytes.give(owner, count)


def _try_again() -> Refusal:
    return Refusal(
        429,
        "too many requests at once; try again in a moment",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )


class TenantExecutor:
    """Threads that prepare requests: they take turns between tenants, and throttle each while there are others.

    Preparing cannot be interrupted, and takes what a client makes it take.  By default it is one thread: a tokenizer is not
    made for several, and Python would not compute faster in them.

    Args:
        threads: of several, no tenant has the last one to itself while there are others.
        waits: the work waits for other processes: its time is told by the clock and not by the processor.
    """

    def __init__(
        self, present: Callable[[], Iterable[str]], *, threads: int = 1, waits: bool = False
    ) -> None:
        self._throttle = Throttle(REST, present)
        self._queue: TenantQueues[str, tuple[Future[Any], Callable[[], Any]]] = TenantQueues()
        self._busy = Quota()
        self._threads, self._time = threads, time.monotonic if waits else time.thread_time
        self._changed = threading.Condition()
        self._ended = False
        for _ in range(threads):
            # A daemon: the end of the process does not wait for its work.
            threading.Thread(target=self._run, name="tenants", daemon=True).start()

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Return what a function returns; work of a cancelled caller that still waits is dropped."""
        future: Future[T] = Future()
        entry = (future, work)
        with self._changed:
            self._queue.push(owner, entry)
            self._changed.notify_all()
        try:
            return await asyncio.wrap_future(future)
        finally:
            with self._changed:
                self._queue.remove(owner, entry)

    def close(self) -> None:
        """End the threads after their present work."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            owner, (future, work) = entry
            began = self._time()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                    future.set_exception(error)
            with self._changed:
                self._throttle.charge(owner, self._time() - began)
                self._busy.give(owner)
                self._changed.notify_all()

    def _next(self) -> tuple[str, tuple[Future[Any], Callable[[], Any]]] | None:
        with self._changed:
            while not self._ended:
                if (entry := self._queue.pop(may=self._may)) is not None:
                    self._busy.take(entry[0])
                    return entry
                self._changed.wait(POLL_SECONDS if len(self._queue) else None)
        return None

    def _may(self, owner: str) -> bool:
        if self._throttle.resting(owner):
            return False
        full = self._threads > 1 and self._busy.of(owner) >= self._threads - 1
        return not (full and self._throttle.has_others(owner))
