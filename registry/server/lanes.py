"""Answers in progress on one adapter, some tokens further at every step.

Who has a place in a lane and who waits for one is up to `places`.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from .fairness import Rests
from .places import PREFILL_ANSWERS, PREFILL_TOKENS, Pace, Places
from .sampling import make_processors, make_sampler
from .writing import Job, Piece, Writing


class Lane(Protocol):
    """The jobs of one adapter, which must be on the base while `step` runs.

    Attributes:
        idle: the last step did nothing, since those who could read rest.
    """

    idle: bool

    def insert(self, job: Job) -> None:
        """Take a job in; it may have to wait within the lane."""

    def remove(self, job: Job) -> None:
        """Drop a job; one that is not there has ended."""

    def step(self) -> list[tuple[Job, Piece]]:
        """Go on by up to one token for each job."""

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""

    def owners(self) -> set[str]:
        """Return whose jobs these are."""

    def close(self) -> None:
        """Give back what the lane holds."""


class BatchLane:
    """Continuous batching by mlx-lm's `BatchGenerator`, which gets what can begin at once and never has a queue."""

    def __init__(self, model: Any, tokenizer: Any, *, width: int, stream: Any, rests: Rests) -> None:
        from mlx_lm.generate import BatchGenerator, make_stop_sequences

        self._tokenizer = tokenizer
        self._ends = make_stop_sequences(tokenizer)
        self._places, self._rests = Places(width, rests), rests
        self._writings: dict[int, Writing] = {}
        self._pace = Pace()
        self.idle = False
        self._generator = BatchGenerator(
            model,
            completion_batch_size=2 * width,
            prefill_batch_size=2 * min(width, PREFILL_ANSWERS),
            prefill_step_size=PREFILL_TOKENS,
            stream=stream,
        )

    def insert(self, job: Job) -> None:
        """Take a job in."""
        self._places.wait(job)

    def remove(self, job: Job) -> None:
        """Drop a job at whatever stage it is."""
        if self._places.leave(job):
            return
        for uid, writing in list(self._writings.items()):
            if writing.job is job:
                self._end(uid)
                self._generator.remove([uid])

    def step(self) -> list[tuple[Job, Piece]]:
        """Read a part of the prompts, and write a token of each answer."""
        for job in self._places.begin():
            self._begin(job)
        readers = self._places.readers()
        size = 0
        if any(not self._rests.resting(owner) for owner in readers):
            others = any(self._rests.has_others(owner) for owner in readers)
            size = self._pace.share(len(readers), others=others)
        self._generator.prefill_step_size = size
        began = time.perf_counter()
        with self._generator.stats() as stats:
            progress, answers = self._generator.next()
        took = self._pace.note(time.perf_counter() - began, stats.prompt_tokens)
        for owner in readers:
            self._places.charge(owner, took / len(readers))
        self.idle = not (size or answers or any(part.end_of_prompt for part in progress))
        pieces, over = [], []
        for answer in answers:
            writing = self._writings[answer.uid]
            self._places.read(writing)
            piece = writing.add(answer.token, answer.finish_reason)
            if piece.finish is not None:
                self._end(answer.uid)
                if answer.finish_reason is None:
                    over.append(answer.uid)
            pieces.append((writing.job, piece))
        if over:
            self._generator.remove(over)
        return pieces

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [*(writing.job for writing in self._writings.values()), *self._places.waiting()]

    def owners(self) -> set[str]:
        """Return whose jobs these are."""
        return {job.owner for job in self.jobs()}

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()

    def _begin(self, job: Job) -> None:
        (uid,) = self._generator.insert(
            [list(job.tokens)],
            max_tokens=[job.max_tokens],
            samplers=[make_sampler(job.sampling)],
            logits_processors=[make_processors(job.sampling)],
            stop_sequences=[self._ends],
        )
        self._writings[uid] = Writing(job, self._tokenizer)

    def _end(self, uid: int) -> None:
        self._places.end(self._writings.pop(uid))
