"""Sharing between tenants: whoever fills a room first keeps nobody out, turns go round, and who takes time rests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

SPARE_SECONDS = 1.0
"""Of rest that an owner can be ahead."""

AWAY_SECONDS = 2.0
"""For which somebody still counts as being there."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shares:
    """Who holds how much of something that there is a limited room for: answers, bytes, places in a batch."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many owners hold something."""
        return len(self._held)

    def owners(self) -> list[str]:
        """Return who holds something."""
        return list(self._held)

    @property
    def total(self) -> int:
        """What all hold together."""
        return sum(self._held.values())

    def each(self) -> list[str]:
        """Return the owners, each as often as it holds one."""
        return [owner for owner, count in self._held.items() for _ in range(count)]

    def of(self, owner: str) -> int:
        """Return what one owner holds."""
        return self._held.get(owner, 0)

    def take(self, owner: str, count: int = 1) -> None:
        """Let an owner hold more, whether there is room or not."""
        self._held[owner] = self.of(owner) + count

    def give(self, owner: str, count: int = 1) -> None:
        """Let an owner hold less."""
        left = self.of(owner) - count
        if left:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)

    def has_room(self, owner: str, room: int, count: int = 1) -> bool:
        """Return whether an owner may take more.

        As long as there is room, anybody may.  When it is full, who holds less than an equal share still may, up to twice
        the room in all: who came first is not driven out, and shuts nobody out.
        """
        if self.total + count <= room:
            return True
        owners = len(self._held) + (owner not in self._held)
        share = max(room // owners, count if owner not in self._held else 1)
        return self.of(owner) + count <= share and self.total + count <= 2 * room


class Turns(Generic[K, T]):
    """A queue for each owner."""

    def __init__(self) -> None:
        self._queues: dict[K, deque[T]] = {}  # in the order of turns

    def __len__(self) -> int:
        """Return how many wait, of all owners."""
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        """Yield all that wait."""
        for queue in self._queues.values():
            yield from queue

    def owners(self) -> Iterator[K]:
        """Yield those for whom something waits."""
        yield from self._queues

    def push(self, owner: K, item: T) -> None:
        """Put something at the end of an owner's queue."""
        self._queues.setdefault(owner, deque()).append(item)

    def pop(
        self, held: Callable[[K], Any] | None = None, may: Callable[[K], bool] | None = None
    ) -> tuple[K, T] | None:
        """Return what is next with its owner: of who holds least, and of equals whose turn is longest ago.

        Args:
            held: returns what an owner holds; None where that does not count.
            may: whose turn it can be; None for anybody's.
        """
        owners = list(self._queues)
        if held is not None:
            owners.sort(key=held)
        for owner in owners:
            if may is None or may(owner):
                queue = self._queues.pop(owner)
                item = queue.popleft()
                if queue:
                    self._queues[owner] = queue
                return owner, item
        return None

    def remove(self, owner: K, item: T) -> bool:
        """Drop something; return whether it was there."""
        queue = self._queues.get(owner)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[owner]
        return True


class Rests:
    """Who has taken time from all, and rests before taking more, as long as there are others.

    Each owner may take one part in `factor` + 1 of the time; who has taken less for a while has some of it to spare.
    """

    def __init__(self, factor: float, present: Callable[[], Iterable[str]]) -> None:
        """Prepare.

        Args:
            factor: how much longer than what was taken a rest is.
            present: returns who is there at the moment; they count for a while longer, since who asks one thing after the
                other is away in between.
        """
        self._factor, self._present = factor, present
        self._until: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def charge(self, owner: str, seconds: float) -> None:
        """Let an owner rest for what it took."""
        begin = max(self._until.get(owner, 0.0), time.monotonic() - SPARE_SECONDS)
        self._until[owner] = begin + self._factor * seconds

    def resting(self, owner: str) -> bool:
        """Return whether an owner must rest at the moment."""
        return self._until.get(owner, 0.0) > time.monotonic() and self.has_others(owner)

    def has_others(self, owner: str) -> bool:
        """Return whether others are there, or were a moment ago."""
        now = time.monotonic()
        self._seen |= dict.fromkeys(self._present(), now)
        return any(other != owner and seen > now - AWAY_SECONDS for other, seen in self._seen.items())

    def forgive(self) -> None:
        """Let nobody rest: there is nothing else to do."""
        self._until.clear()
