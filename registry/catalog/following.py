"""Following the log: entries as they come."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..records.event import Event


class EventLog(Protocol):
    """The log of a registry, on this machine or at a server: `registry.upkeep`."""

    def log(
        self,
        *,
        reference: str | None = None,
        since: str | None = None,
        action: str | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Event]:
        """Return entries, the newest last."""


PAUSE = 1.0
"""Seconds between two looks at the log."""


def follow(
    registry: EventLog,
    *,
    reference: str | None = None,
    since: str | None = None,
    action: str | None = None,
    limit: int | None = None,
    stop: threading.Event | None = None,
    pause: float = PAUSE,
) -> Iterator[Event]:
    """Yield entries of the log, oldest first, and then those that come, until it is told to stop.

    Args:
        registry: its log.
        reference: only entries about this, as `journal` has it.
        since: of those that are there, only entries from this moment on.
        action: only entries of this action.
        limit: of those that are there, only this many of the newest.
        stop: ends it when it is set; None to go on for ever.
        pause: seconds between two looks.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: the moment or the action is not one.
    """
    stopped = stop or threading.Event()
    seen = newest(registry)
    yield from registry.log(reference=reference, since=since, action=action, before=seen + 1, limit=limit)
    while not stopped.wait(pause):
        # The number first: what is written after it was read is for the next look.
        last = newest(registry)
        if last > seen:
            yield from registry.log(reference=reference, action=action, after=seen, before=last + 1)
            seen = last


def newest(registry: EventLog) -> int:
    """Return the number of the newest entry, 0 where there is none."""
    return max((event.seq for event in registry.log(limit=1)), default=0)
