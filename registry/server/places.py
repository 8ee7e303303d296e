"""Who has a place in a lane, by turns of the owners and of their adapters, and how much of their prompts is read at a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .fairness import Rests, Shares, Turns

if TYPE_CHECKING:
    from .writing import Job, Writing

PREFILL_TOKENS = 512
"""How much of its prompts a lane reads at a step, of all together."""

PREFILL_LEAST = 8
"""How much of each at least."""

PREFILL_SECONDS = 0.02
"""How long a step may read while there are others: a computer that reads slowly reads less at a step."""

_Line = tuple[str, object]
"""An owner and an adapter: for each there is a queue."""

PREFILL_ANSWERS = 8
"""How many prompts a lane reads at once, one of each owner while there are several."""


class Pace:
    """How fast prompts are read, beside the answers that are being written."""

    def __init__(self) -> None:
        self._plain = 0.0  # seconds of a step that only writes
        self._token = 0.0  # seconds to read a token

    def share(self, readers: int, *, others: bool) -> int:
        """Return how many tokens of each prompt a step reads; while there are others, no more than takes a moment."""
        most = PREFILL_TOKENS // readers
        if others and self._token:
            most = min(most, int(max(PREFILL_SECONDS, self._plain) / self._token / readers))
        return max(PREFILL_LEAST, most)

    def note(self, seconds: float, tokens: int) -> float:
        """Take in how long a step took that read so many tokens; return how much of that was for reading."""
        if not tokens:
            self._plain = seconds
            return 0.0
        reading = max(0.0, seconds - self._plain)
        self._token = reading / tokens
        return reading


class Places:
    """Who has how many places in a lane, and who waits for one."""

    def __init__(self, width: int, rests: Rests) -> None:
        self._rests = rests
        self._width, self._readers = width, min(width, PREFILL_ANSWERS)
        self._waiting: Turns[_Line, Job] = Turns()
        self._running, self._reading = Shares(), Shares()
        self._lines: Counter[_Line] = Counter()  # of those that run

    def wait(self, job: Job) -> None:
        """Let a job wait."""
        self._waiting.push(_line(job), job)

    def leave(self, job: Job) -> bool:
        """Drop a job that waits; return whether it did."""
        return self._waiting.remove(_line(job), job)

    def begin(self) -> Iterator[Job]:
        """Yield the jobs that can begin now, each with a place."""
        while (found := self._waiting.pop(self._held, self._may_begin)) is not None:
            line, job = found
            self._running.take(job.owner)
            self._reading.take(job.owner)
            self._lines[line] += 1
            yield job

    def read(self, writing: Writing) -> None:
        """Note that a prompt has been read."""
        if writing.reading:
            writing.reading = False
            self._reading.give(writing.job.owner)

    def end(self, writing: Writing) -> None:
        """Take a place back."""
        self.read(writing)
        self._give(writing.job)

    def give_up(self, job: Job) -> None:
        """Take back the place of a job that could not be begun."""
        self._reading.give(job.owner)
        self._give(job)

    def _give(self, job: Job) -> None:
        self._running.give(job.owner)
        line = _line(job)
        self._lines[line] -= 1
        if not self._lines[line]:
            del self._lines[line]

    def readers(self) -> list[str]:
        """Return whose prompts are being read, each owner as often as it has some."""
        return self._reading.each()

    def charge(self, owner: str, seconds: float) -> None:
        """Let an owner rest for what reading took: longer by its part of the places, up to twice as long for all of them.

        Who has none of the others' answers to wait for reads soon; who has most of the places already gets them filled slowly.
        """
        part = self._running.of(owner) / max(1, self._running.total)
        self._rests.charge(owner, seconds * (1 + part))

    def waiting(self) -> list[Job]:
        """Return the jobs without a place."""
        return list(self._waiting)

    def _held(self, line: _Line) -> tuple[int, int]:
        return self._running.of(line[0]), self._lines[line]

    def _may_begin(self, line: _Line) -> bool:
        """Return whether a prompt of an owner can be begun; while there are others, one at a time.

        What is begun is read together, so an owner that rests is not waited for: it reads whenever another does.  A full lane
        takes in the first answer of an adapter, up to half as many again as the owner's share, so that long answers of one do not
        shut out the next.
        """
        owner, _ = line
        owners = len(self._running) + (not self._running.of(owner))
        first = (
            not self._lines[line]
            and 2 * self._running.total < 3 * self._width
            and 2 * self._running.of(owner) < 3 * max(1, self._width // owners)
        )
        return (
            not self._rests.resting(owner)
            and (self._running.has_room(owner, self._width) or first)
            and self._reading.has_room(owner, self._readers)
            and not (self._reading.of(owner) and self._rests.has_others(owner))
        )


def _line(job: Job) -> _Line:
    return job.owner, job.resident
