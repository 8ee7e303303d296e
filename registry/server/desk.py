"""Where requests are made ready: read, checked and made into tokens, in threads of their own and in turns by tenant.

None of that can be interrupted, and it takes what a client makes it take.  So it goes round: a tenant with many requests waits for
its own, and while there are others, it rests after each for some times as long as that took.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from .fairness import Rests, Shares, Turns

REST = 4
"""A tenant gets a fifth of the thread at most while there are others."""

POLL_SECONDS = 0.01
"""Between two looks whether somebody who rested has rested enough."""

T = TypeVar("T")


class Desk:
    """One thread, unless more are asked for: a tokenizer is not made for several, and Python would not compute faster in them."""

    def __init__(
        self, present: Callable[[], Iterable[str]], *, threads: int = 1, waits: bool = False
    ) -> None:
        """Begin.

        Args:
            present: returns the tenants with requests in progress.
            threads: how many; of several, no tenant has the last one to itself while there are others.
            waits: the work waits for other processes, so that what it takes is told by the clock and not by the processor.
        """
        self._rests = Rests(REST, present)
        self._turns: Turns[str, tuple[Future[Any], Callable[[], Any]]] = Turns()
        self._busy = Shares()
        self._threads, self._time = threads, time.monotonic if waits else time.thread_time
        self._changed = threading.Condition()
        self._ended = False
        for _ in range(threads):
            # A daemon: the end of the process does not wait for it, whatever it is at.
            threading.Thread(target=self._run, name="desk", daemon=True).start()

    async def do(self, owner: str, work: Callable[[], T]) -> T:
        """Return what a function returns; who is cancelled while waiting is dropped."""
        future: Future[T] = Future()
        entry = (future, work)
        with self._changed:
            self._turns.push(owner, entry)
            self._changed.notify_all()
        try:
            return await asyncio.wrap_future(future)
        finally:
            with self._changed:
                self._turns.remove(owner, entry)

    def close(self) -> None:
        """End the threads when they have done what they are at."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            owner, (future, work) = found
            began = self._time()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                    future.set_exception(error)
            with self._changed:
                self._rests.charge(owner, self._time() - began)
                self._busy.give(owner)
                self._changed.notify_all()

    def _next(self) -> tuple[str, tuple[Future[Any], Callable[[], Any]]] | None:
        with self._changed:
            while not self._ended:
                if (found := self._turns.pop(may=self._may)) is not None:
                    self._busy.take(found[0])
                    return found
                self._changed.wait(POLL_SECONDS if len(self._turns) else None)
        return None

    def _may(self, owner: str) -> bool:
        if self._rests.resting(owner):
            return False
        full = self._threads > 1 and self._busy.of(owner) >= self._threads - 1
        return not (full and self._rests.has_others(owner))
