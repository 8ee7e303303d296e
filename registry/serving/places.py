"""Who has a place in a lane: by turns of the owners, and whoever fills a lane first shuts nobody out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .fairness import Rests, Shares, Turns

if TYPE_CHECKING:
    from .lanes import Job, Writing

PREFILL_ANSWERS = 8
"""How many prompts a lane reads at once."""


class Places:
    """Who has how many places in a lane, and who waits for one."""

    def __init__(self, width: int, rests: Rests) -> None:
        self._rests = rests
        self._width, self._readers = width, min(width, PREFILL_ANSWERS)
        self._waiting: Turns[Job] = Turns()
        self._running, self._reading = Shares(), Shares()

    def wait(self, job: Job) -> None:
        """Let a job wait."""
        self._waiting.push(job.owner, job)

    def leave(self, job: Job) -> bool:
        """Drop a job that waits; return whether it did."""
        return self._waiting.remove(job.owner, job)

    def begin(self) -> Iterator[Job]:
        """Yield the jobs that can begin now, each with a place."""
        while (found := self._waiting.pop(self._running, self._may_begin)) is not None:
            owner, job = found
            self._running.take(owner)
            self._reading.take(owner)
            yield job

    def read(self, writing: Writing) -> None:
        """Note that a prompt has been read."""
        if writing.reading:
            writing.reading = False
            self._reading.give(writing.job.owner)

    def end(self, writing: Writing) -> None:
        """Take a place back."""
        self.read(writing)
        self._running.give(writing.job.owner)

    def readers(self) -> list[str]:
        """Return whose prompts are being read, each owner as often as it has some."""
        return self._reading.each()

    def waiting(self) -> list[Job]:
        """Return the jobs without a place."""
        return list(self._waiting)

    def _may_begin(self, owner: str) -> bool:
        return (
            not self._rests.resting(owner)
            and self._running.has_room(owner, self._width)
            and self._reading.has_room(owner, self._readers)
        )
