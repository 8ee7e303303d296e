"""Answers in progress, a token further at every step: a batch for all adapters that rows can name, and one for each other."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..registry.runtime.switching import Switchboard
from .fairness import Quota, TenantQueues, Throttle
from .prefixes import Prefixes
from .sampling import make_sampler
from .writing import Generation, Piece, RunningJob

LOG = logging.getLogger(__name__)

PREFILL_TOKENS, PREFILL_LEAST = 512, 8
"""Tokens of prompts that a step reads: of all prompts together, and of each at least."""

PREFILL_SECONDS = 0.02
"""How long a step may read while there are others: a computer that reads slowly reads less at a step."""

PREFILL_ANSWERS = 8
"""How many prompts a batch reads at once, one of each owner while there are several."""

_Line = tuple[str, object]
"""An owner and an adapter: for each there is a queue."""


class PrefillRate:
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
        """Note the time of a step and the tokens that it read; return how much of the time was for reading."""
        if not tokens:
            self._plain = seconds
            return 0.0
        reading = max(0.0, seconds - self._plain)
        self._token = reading / tokens
        return reading


class BatchSlots:
    """Who has how many slots of a batch, and who waits for one."""

    def __init__(self, width: int, throttle: Throttle) -> None:
        self._throttle = throttle
        self._width, self._readers = width, min(width, PREFILL_ANSWERS)
        self._waiting: TenantQueues[_Line, Generation] = TenantQueues()
        self._running, self._reading = Quota(), Quota()
        self._lines: Counter[_Line] = Counter()  # of those that run

    def wait(self, job: Generation) -> None:
        """Let a job wait."""
        self._waiting.push(_line(job), job)

    def leave(self, job: Generation) -> bool:
        """Drop a job that waits; return whether it did."""
        return self._waiting.remove(_line(job), job)

    def begin(self) -> Iterator[Generation]:
        """Yield the jobs that can begin now, each with a slot."""
        while (entry := self._waiting.pop(self._held, self._may_begin)) is not None:
            line, job = entry
            self._running.take(job.owner)
            self._reading.take(job.owner)
            self._lines[line] += 1
            yield job

    def read(self, running: RunningJob) -> None:
        """Note that a prompt has been read."""
        if running.reading:
            running.reading = False
            self._reading.give(running.job.owner)

    def end(self, running: RunningJob) -> None:
        """Release the slot of a job."""
        self.read(running)
        self._release(running.job)

    def give_up(self, job: Generation) -> None:
        """Release the slot of a job that could not be begun."""
        self._reading.give(job.owner)
        self._release(job)

    def _release(self, job: Generation) -> None:
        self._running.give(job.owner)
        line = _line(job)
        self._lines[line] -= 1
        if not self._lines[line]:
            del self._lines[line]

    def readers(self) -> list[str]:
        """Return whose prompts are being read, each owner as often as it has some."""
        return self._reading.each()

    def charge(self, owner: str, seconds: float) -> None:
        """Let an owner rest for the time of reading: longer by its part of the slots, up to twice as long for all of them.

        An owner that waits for few answers reads soon; an owner with most of the slots gets them filled slowly.
        """
        part = self._running.of(owner) / max(1, self._running.total)
        self._throttle.charge(owner, seconds * (1 + part))

    def waiting(self) -> list[Generation]:
        """Return the jobs without a slot."""
        return list(self._waiting)

    def _held(self, line: _Line) -> tuple[int, int]:
        return self._running.of(line[0]), self._lines[line]

    def _may_begin(self, line: _Line) -> bool:
        """Return whether a prompt of an owner can be begun; while there are others, one at a time.

        What is begun is read together, so an owner that rests is not waited for: it reads whenever another does.  A full
        batch takes in the first answer of an adapter, up to half as many again as the owner's share, so that long answers
        of one do not shut out the next.
        """
        owner, _ = line
        owners = len(self._running) + (not self._running.of(owner))
        first = (
            not self._lines[line]
            and 2 * self._running.total < 3 * self._width
            and 2 * self._running.of(owner) < 3 * max(1, self._width // owners)
        )
        return (
            not self._throttle.resting(owner)
            and (self._running.has_room(owner, self._width) or first)
            and self._reading.has_room(owner, self._readers)
            and not (self._reading.of(owner) and self._throttle.has_others(owner))
        )


def _line(job: Generation) -> _Line:
    return job.owner, job.resident


class Batch(ABC):
    """The jobs of one pass over the base; while `step` runs, the base must have the adapter on that rows cannot name.

    Attributes:
        idle: the last step did nothing, since those who could read rest.
    """

    def __init__(
        self, board: Switchboard, tokenizer: Any, *, width: int, throttle: Throttle, prefixes: Prefixes
    ) -> None:
        self._model, self._tokenizer, self._prefixes = board.model, tokenizer, prefixes
        self._slots, self._throttle, self._rate = BatchSlots(width, throttle), throttle, PrefillRate()
        self._read: list[tuple[Generation, list[int], list[Any]]] = []
        self.idle = False

    def insert(self, job: Generation) -> None:
        """Take a job in; it may have to wait within the batch."""
        self._slots.wait(job)

    @abstractmethod
    def remove(self, job: Generation) -> None:
        """Drop a job at whatever stage it is."""

    @abstractmethod
    def step(self) -> list[tuple[Generation, Piece]]:
        """Read a part of the prompts, and write up to one token for each job."""

    @abstractmethod
    def running(self) -> list[Generation]:
        """Return the jobs that have a slot."""

    @abstractmethod
    def close(self) -> None:
        """Release what the batch holds."""

    def keep(self) -> None:
        """Cache what the last step has read, after its tokens were posted: the caches are not computed yet."""
        read, self._read = self._read, []
        for job, tokens, cache in read:
            self._prefixes.put(job, tokens, cache)

    def jobs(self) -> list[Generation]:
        """Return the jobs that have not ended."""
        return [*self.running(), *self._slots.waiting()]

    def owners(self) -> set[str]:
        """Return whose jobs these are."""
        return {job.owner for job in self.jobs()}


class ContinuousBatch(Batch):
    """Continuous batching by mlx-lm's `BatchGenerator`, which gets what can begin at once and never has a queue."""

    def __init__(
        self,
        board: Switchboard,
        tokenizer: Any,
        *,
        width: int,
        stream: Any,
        throttle: Throttle,
        prefixes: Prefixes,
    ) -> None:
        from mlx_lm.generate import make_stop_sequences

        from .batch_generator import AdapterBatchGenerator

        super().__init__(board, tokenizer, width=width, throttle=throttle, prefixes=prefixes)
        self._ends = make_stop_sequences(tokenizer)
        self._running: dict[int, RunningJob] = {}
        self._generator = AdapterBatchGenerator(
            board.model,
            board.rows,
            completion_batch_size=2 * width,
            prefill_batch_size=2 * min(width, PREFILL_ANSWERS),
            prefill_step_size=PREFILL_TOKENS,
            stream=stream,
        )

    def remove(self, job: Generation) -> None:
        """Drop a job at whatever stage it is."""
        if self._slots.leave(job):
            return
        for uid, running in list(self._running.items()):
            if running.job is job:
                self._end(uid)
                self._generator.remove([uid])

    def step(self) -> list[tuple[Generation, Piece]]:
        """Read a part of the prompts, and write a token of each answer."""
        pieces = self._begin_all()
        if pieces:  # posted at once, whatever becomes of the pass
            self.idle = False
            return pieces
        readers = self._slots.readers()
        size = 0
        if any(not self._throttle.resting(owner) for owner in readers):
            others = any(self._throttle.has_others(owner) for owner in readers)
            size = self._rate.share(len(readers), others=others)
        self._generator.prefill_step_size = size
        began = time.perf_counter()
        with self._generator.stats() as stats:
            progress, answers = self._generator.next()  # an error is of all that are in it
        took = self._rate.note(time.perf_counter() - began, stats.prompt_tokens)
        for owner in readers:
            self._slots.charge(owner, took / len(readers))
        self.idle = not (size or answers or any(part.end_of_prompt for part in progress))
        # Another prompt that begins alike may come before these are answered.
        segments = [part.uid for part in progress if part.end_of_segment and not part.end_of_prompt]
        if segments and self._prefixes.limit:
            for uid, (cache, tokens) in self._generator.extract_cache(segments).items():
                self._read.append((self._running[uid].job, list(tokens), cache))
        over = {}
        for answer in answers:
            running = self._running[answer.uid]
            self._slots.read(running)
            try:
                piece = running.add(answer.token, answer.finish_reason, answer.logprobs)
            except Exception as error:  # noqa: BLE001 - one bad answer must not end the others
                piece = _failed(error)
            if piece.finish is not None:
                self._end(answer.uid)
                if answer.finish_reason is None:
                    over[answer.uid] = running.job
                elif self._prefixes.limit:
                    self._read.append((running.job, answer.all_tokens, answer.prompt_cache))
            pieces.append((running.job, piece))
        if over:
            removed = self._generator.remove(list(over), return_prompt_caches=bool(self._prefixes.limit))
            self._read += [(over[uid], tokens, cache) for uid, (cache, tokens) in removed.items()]
        return pieces

    def running(self) -> list[Generation]:
        """Return the jobs that have a slot."""
        return [running.job for running in self._running.values()]

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()

    def _begin_all(self) -> list[tuple[Generation, Piece]]:
        """Begin the jobs that have got a slot; return the failures."""
        failed = []
        for job in self._slots.begin():
            try:
                self._begin(job)
            except Exception as error:  # noqa: BLE001 - one bad job must not end the others
                self._slots.give_up(job)
                failed.append((job, _failed(error)))
        return failed

    def _begin(self, job: Generation) -> None:
        running, prefix = RunningJob(job, self._tokenizer), self._prefixes.find(job)
        job.reused = prefix.length
        cut = prefix.boundary or prefix.length
        (uid,) = self._generator.insert_segments(
            [[job.tokens[prefix.length : cut], job.tokens[cut:]]],
            caches=[prefix.cache],
            all_tokens=[job.tokens[: prefix.length]],
            max_tokens=[job.max_tokens],
            samplers=[make_sampler(job.sampling)],
            logits_processors=[job.processors()],
            stop_sequences=[self._ends],
        )
        self._generator.numbers[uid] = job.resident.number if job.resident is not None else None
        self._running[uid] = running

    def _end(self, uid: int) -> None:
        self._slots.end(self._running.pop(uid))
        del self._generator.numbers[uid]


def _failed(error: Exception) -> Piece:
    # Only the kind of error: its text may be made from the prompt.
    LOG.error("generation failed for an answer: %s", type(error).__name__)
    return Piece("", 0, "error")
