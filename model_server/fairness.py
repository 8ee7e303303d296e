"""Fairness between tenants: quotas, fair queues, and threads that use them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ..registry.runtime.document import ServingLimits, Tenant
from ..registry.runtime.errors import Refusal, invalid

BODIES_BYTES = 32 << 20  # of requests that are being read and prepared, of all tenants

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def has_room(held: Counter[str], owner: str, room: int, count: int = 1) -> bool:
    """Return whether an owner may take `count` slots of `room`, or of twice that while it has less than an equal share."""
    total = held.total() + count
    share = max(room // len({*+held, owner}), 0 if held[owner] else count)
    return total <= room or (held[owner] + count <= share and total <= 2 * room)


class TenantQueues(Generic[K, T]):
    """A queue for each owner, served in turns."""

    def __init__(self) -> None:
        self._queues: dict[K, deque[T]] = {}  # the next owner is first

    def __iter__(self) -> Iterator[T]:
        for queue in self._queues.values():
            yield from queue

    def push(self, owner: K, item: T) -> None:
        """Put an item at the end of an owner's queue."""
        self._queues.setdefault(owner, deque()).append(item)

    def pop(
        self, held: Callable[[K], Any] = lambda owner: 0, may: Callable[[K], bool] = lambda owner: True
    ) -> tuple[K, T] | None:
        """Return the next item of an owner that `may`: the one that holds least, then the one that waited longest."""
        for owner in sorted(self._queues, key=held):
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


class Admission:
    """Counts answers in progress or waiting, and bytes of requests, by tenant."""

    def __init__(self, limits: Callable[[], ServingLimits], show: Callable[[str, int], None]) -> None:
        self._limits, self._show = limits, show
        self._answers, self._bytes = Counter[str](), Counter[str]()

    @property
    def total(self) -> int:
        """Answers in progress or waiting."""
        return self._answers.total()

    @contextmanager
    def answers(self, tenant: Tenant | None, count: int, *, counted_answers: int = 0) -> Iterator[None]:
        """Count answers while the block runs; `counted_answers` of the same request are counted already."""
        owner, own = (tenant.name, tenant.concurrent) if tenant else ("", None)
        room = self._limits().waiting
        most, held = min(room, own or room), self._answers
        if count + counted_answers > most:
            raise invalid("n", f"this key can have up to {most} answers at once")
        if count and (held[owner] + count > most or not has_room(held, owner, room, count)):
            raise _try_again()
        held[owner] += count
        self._show(owner, held[owner])
        try:
            yield
        finally:
            held[owner] -= count
            self._show(owner, held[owner])

    @contextmanager
    def bytes(self, owner: str, count: int) -> Iterator[None]:
        """Count the bytes of a request's body while the block runs."""
        if not has_room(self._bytes, owner, max(BODIES_BYTES, count), count):
            raise _try_again()
        self._bytes[owner] += count
        try:
            yield
        finally:
            self._bytes[owner] -= count


def _try_again() -> Refusal:
    why = "too many requests at once; try again in a moment"
    return Refusal(429, why, code="rate_limit_exceeded", headers={"Retry-After": "1"})


class TenantExecutor:
    """Threads that prepare requests, in turns between tenants; one by default, because a tokenizer is not thread-safe."""

    def __init__(self, threads: int = 1) -> None:
        self._queue: TenantQueues[str, tuple[Future[Any], Callable[[], Any]]] = TenantQueues()
        self._busy, self._most = Counter[str](), max(1, threads - 1)
        self._changed = threading.Condition()
        self._ended = False
        for _ in range(threads):
            threading.Thread(target=self._run, name="tenants", daemon=True).start()

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Run a function and return its result; waiting work of a cancelled caller is dropped."""
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
        """End the threads after their current work."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            owner, (future, work) = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    future.set_exception(error)
            with self._changed:
                self._busy[owner] -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[str, tuple[Future[Any], Callable[[], Any]]] | None:
        with self._changed:
            while not self._ended:
                if (entry := self._queue.pop(may=lambda owner: self._busy[owner] < self._most)) is not None:
                    self._busy[entry[0]] += 1
                    return entry
                self._changed.wait()
        return None
