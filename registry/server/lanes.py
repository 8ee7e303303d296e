"""Answers in progress, some tokens further at every step: of all adapters that rows can name, or of one that is on the base as a whole.

Who has a place in a lane and who waits for one is up to `places`.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from .fairness import Rests
from .places import PREFILL_ANSWERS, PREFILL_TOKENS, Pace, Places
from .prefixes import Prefixes
from .sampling import make_sampler
from .switching import Switchboard
from .writing import Job, Piece, Writing

LOG = logging.getLogger(__name__)


class Lane(Protocol):
    """The jobs of one pass over the base, which must have its adapter on, if that is none that rows name, while `step` runs.

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

    def keep(self) -> None:
        """Keep what the last step has read, now that what it brought has been told."""

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""

    def owners(self) -> set[str]:
        """Return whose jobs these are."""

    def close(self) -> None:
        """Give back what the lane holds."""


class BatchLane:
    """Continuous batching by mlx-lm's `BatchGenerator`, which gets what can begin at once and never has a queue."""

    def __init__(
        self, board: Switchboard, tokenizer: Any, *, width: int, stream: Any, rests: Rests, prefixes: Prefixes
    ) -> None:
        from mlx_lm.generate import make_stop_sequences

        from .one_pass import OnePass

        self._tokenizer, self._prefixes = tokenizer, prefixes
        self._ends = make_stop_sequences(tokenizer)
        self._places, self._rests = Places(width, rests), rests
        self._writings: dict[int, Writing] = {}
        self._read: list[tuple[Job, list[int], list[Any]]] = []
        self._pace = Pace()
        self.idle = False
        self._generator = OnePass(
            board.model,
            board.rows,
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
        pieces = self._begin_all()
        if pieces:  # told at once, whatever becomes of the pass
            self.idle = False
            return pieces
        readers = self._places.readers()
        size = 0
        if any(not self._rests.resting(owner) for owner in readers):
            others = any(self._rests.has_others(owner) for owner in readers)
            size = self._pace.share(len(readers), others=others)
        self._generator.prefill_step_size = size
        began = time.perf_counter()
        with self._generator.stats() as stats:
            progress, answers = self._generator.next()  # what it raises is of all that are in it
        took = self._pace.note(time.perf_counter() - began, stats.prompt_tokens)
        for owner in readers:
            self._places.charge(owner, took / len(readers))
        self.idle = not (size or answers or any(part.end_of_prompt for part in progress))
        self._note_prompts([part.uid for part in progress if part.end_of_segment and not part.end_of_prompt])
        over = {}
        for answer in answers:
            writing = self._writings[answer.uid]
            self._places.read(writing)
            try:
                piece = writing.add(answer.token, answer.finish_reason, answer.logprobs)
            except Exception as error:  # noqa: BLE001 - one bad answer must not end the others
                piece = _failed(error)
            if piece.finish is not None:
                self._end(answer.uid)
                if answer.finish_reason is None:
                    over[answer.uid] = writing.job
                elif self._prefixes.limit:
                    self._read.append((writing.job, answer.all_tokens, answer.prompt_cache))
            pieces.append((writing.job, piece))
        if over:
            kept = self._generator.remove(list(over), return_prompt_caches=bool(self._prefixes.limit))
            for uid, (cache, tokens) in kept.items():
                self._read.append((over[uid], tokens, cache))
        return pieces

    def keep(self) -> None:
        """Keep what the last step has read.  Its caches are not computed yet: whoever waits for a token does not wait for that."""
        read, self._read = self._read, []
        for job, tokens, cache in read:
            self._prefixes.put(job, tokens, cache)

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [*(writing.job for writing in self._writings.values()), *self._places.waiting()]

    def owners(self) -> set[str]:
        """Return whose jobs these are."""
        return {job.owner for job in self.jobs()}

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()

    def _note_prompts(self, uids: list[int]) -> None:
        """Note what was read of prompts: another that begins alike may be there before these are answered."""
        if not uids or not self._prefixes.limit:
            return
        for uid, (cache, tokens) in self._generator.extract_cache(uids).items():
            self._read.append((self._writings[uid].job, list(tokens), cache))

    def _begin_all(self) -> list[tuple[Job, Piece]]:
        """Begin whoever has got a place; return what there is to tell of those that cannot."""
        failed = []
        for job in self._places.begin():
            try:
                self._begin(job)
            except Exception as error:  # noqa: BLE001 - one bad job must not end the others
                self._places.give_up(job)
                failed.append((job, _failed(error)))
        return failed

    def _begin(self, job: Job) -> None:
        writing, found = Writing(job, self._tokenizer), self._prefixes.find(job)
        job.reused = found.length
        cut = found.boundary or found.length
        (uid,) = self._generator.insert_segments(
            [[job.tokens[found.length : cut], job.tokens[cut:]]],
            caches=[found.cache],
            all_tokens=[job.tokens[: found.length]],
            max_tokens=[job.max_tokens],
            samplers=[make_sampler(job.sampling)],
            logits_processors=[job.processors()],
            stop_sequences=[self._ends],
        )
        self._generator.numbers[uid] = job.resident.number if job.resident is not None else None
        self._writings[uid] = writing

    def _end(self, uid: int) -> None:
        self._places.end(self._writings.pop(uid))
        del self._generator.numbers[uid]


def _failed(error: Exception) -> Piece:
    # Only the kind of error: its text may be made from the prompt.
    LOG.error("generation failed for an answer: %s", type(error).__name__)
    return Piece("", 0, "error")
