"""Following the log: entries as they come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from .. import tables
from ..records.event import Event
from .journal import journal

if TYPE_CHECKING:
    from ..workspace import Workspace

PAUSE = 1.0
"""Seconds between two looks at the log."""


def follow(
    workspace: Workspace,
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
        workspace: the registry's parts.
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
    seen = newest(workspace)
    yield from journal(
        workspace, reference=reference, since=since, action=action, before=seen + 1, limit=limit
    )
    while not stopped.wait(pause):
        # The number first: what is written after it was read is for the next look.
        last = newest(workspace)
        if last > seen:
            yield from journal(workspace, reference=reference, action=action, after=seen, before=last + 1)
            seen = last


def newest(workspace: Workspace) -> int:
    """Return the number of the newest entry, 0 where there is none."""
    with workspace.database.read() as session:
        return session.scalar(select(func.max(tables.Event.seq))) or 0
