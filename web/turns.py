"""Turns: so many requests are worked on at a time, of one asker no more than a share of them, and askers take turns."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from contextlib import suppress

from .visitors import TooOftenError

PATIENCE = 60
"""Seconds that somebody waits for a turn."""

WAITING = 256
"""Requests of one asker that may wait for a turn."""


class Turns:
    """Turns of one kind; of an event loop, and not of several threads.

    Args:
        most: at a time.
        each: of them for one asker.
    """

    def __init__(self, most: int, each: int) -> None:
        self._free, self._each = most, each
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, asker: str) -> None:
        """Wait for a turn, which is to be given back by `release`.

        Raises:
            TooOftenError: so many of this asker's requests wait already, or none was free for a minute.
        """
        if self.has_one(asker):
            self._give(asker)
            return
        if len(self._waiting.get(asker, ())) >= WAITING:
            raise TooOftenError("too many of your requests are waiting already", hint="ask for less at once")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asker, deque()).append(turn)
        try:
            async with asyncio.timeout(PATIENCE):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(asker)  # it came at the moment at which nobody waited for it any more
            else:
                self._forget(asker, turn)
            if isinstance(error, TimeoutError):
                raise TooOftenError("the server has too much to do", hint="ask again soon") from error
            raise

    def release(self, asker: str) -> None:
        """Give a turn back."""
        self._free += 1
        self._taken[asker] -= 1
        if not self._taken[asker]:
            del self._taken[asker]
        for name, queue in list(self._waiting.items()):
            if self._free and self._taken[name] < self._each:
                turn = _next(queue)
                if turn is not None:
                    self._give(name)
                    turn.set_result(None)
                    self._waiting.move_to_end(name)
                self._tidy(name)

    def has_one(self, asker: str) -> bool:
        """Tell whether a turn is free for somebody, and nobody of theirs waits for it."""
        return asker not in self._waiting and self._free > 0 and self._taken[asker] < self._each

    def _give(self, asker: str) -> None:
        self._free -= 1
        self._taken[asker] += 1

    def _forget(self, asker: str, turn: asyncio.Future[None]) -> None:
        with suppress(ValueError):
            self._waiting.get(asker, deque()).remove(turn)
        self._tidy(asker)

    def _tidy(self, asker: str) -> None:
        if not self._waiting.get(asker, True):
            del self._waiting[asker]


def _next(queue: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """Return who is next; who was cancelled waits for nothing any more, and is still to be told so."""
    while queue:
        turn = queue.popleft()
        if not turn.done():
            return turn
    return None
