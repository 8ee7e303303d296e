"""Running answers as rows of one pass over the base model, by mlx-lm's `BatchGenerator`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from itertools import pairwise
from typing import Any

from ..registry.runtime.switching import Resident, Switchboard
from .fairness import TenantQueues, has_room
from .prefixes import Prefixes
from .sampling import make_processors, make_sampler
from .writing import Generation, Piece, RunningJob

LOG = logging.getLogger(__name__)

PREFILL_TOKENS, PREFILL_LEAST = 512, 8  # tokens of prompts in a step: in all, and of each prompt at least
PREFILL_SECONDS = 0.02  # of a step's prompts while several tenants have answers, unless decoding takes longer
PREFILL_ANSWERS = 8  # prompts in a step
_Line = tuple[str, Resident | None]  # owner and adapter of a queue


class Batch:
    """The jobs of one pass over the base model, which must be switched to their adapter if rows cannot name it."""

    def __init__(
        self, board: Switchboard, tokenizer: Any, *, width: int, stream: Any, prefixes: Prefixes
    ) -> None:
        from mlx_lm.generate import make_stop_sequences

        from .batch_generator import AdapterBatchGenerator

        self._tokenizer, self._prefixes, self._width = tokenizer, prefixes, width
        self._ends = make_stop_sequences(tokenizer)
        self._waiting: TenantQueues[_Line, Generation] = TenantQueues()
        self._running: dict[int, RunningJob] = {}
        self._read: list[tuple[Generation, list[int], list[Any]]] = []
        self._write_seconds = self._token_seconds = 0.0  # of a step without prompts; of a prompt's token
        self._generator = AdapterBatchGenerator(
            board.model,
            board.rows,
            completion_batch_size=2 * width,
            prefill_batch_size=2 * min(width, PREFILL_ANSWERS),
            prefill_step_size=PREFILL_TOKENS,
            stream=stream,
        )

    def insert(self, job: Generation) -> None:
        """Add a job; it may wait for a slot."""
        self._waiting.push((job.owner, job.resident), job)

    def remove(self, job: Generation) -> None:
        """Remove a job at any stage."""
        if self._waiting.remove((job.owner, job.resident), job):
            return
        for uid, running in list(self._running.items()):
            if running.job is job:
                self._end(uid)
                self._generator.remove([uid])

    def step(self, *, shared: bool = False) -> list[tuple[Generation, Piece]]:
        """Compute a part of the prompts, and a token of each answer; `shared` if several owners have jobs."""
        pieces = self._begin_all(shared=shared)
        if pieces:
            return pieces
        self._generator.prefill_step_size = self._prefill_size(shared=shared)
        began = time.perf_counter()
        with self._generator.stats() as stats:
            progress, answers = self._generator.next()  # an error fails the batch
        seconds = time.perf_counter() - began
        if stats.prompt_tokens:
            self._token_seconds = max(0.0, seconds - self._write_seconds) / stats.prompt_tokens
        else:
            self._write_seconds = seconds
        # The next prompt with the same beginning may arrive before these are answered.
        segments = [part.uid for part in progress if part.end_of_segment and not part.end_of_prompt]
        if segments and self._prefixes.limit:
            for uid, (cache, tokens) in self._generator.extract_cache(segments).items():
                self._read.append((self._running[uid].job, list(tokens), cache))
        stopped = {}  # at a stop string or an error, unknown to the generator
        for answer in answers:
            running = self._running[answer.uid]
            running.reading = False
            try:
                piece = running.add(answer.token, answer.finish_reason, answer.logprobs)
            except Exception as error:  # noqa: BLE001 - one answer's error must not end the others
                piece = _failed(error)
            if piece.finish is not None:
                self._end(answer.uid)
                if answer.finish_reason is None:
                    stopped[answer.uid] = running.job
                elif self._prefixes.limit:
                    self._read.append((running.job, answer.all_tokens, answer.prompt_cache))
            pieces.append((running.job, piece))
        if stopped:
            removed = self._generator.remove(list(stopped), return_prompt_caches=bool(self._prefixes.limit))
            self._read += [(stopped[uid], tokens, cache) for uid, (cache, tokens) in removed.items()]
        return pieces

    def keep(self) -> None:
        """Cache the prompts of the last step, after its tokens are posted: mlx computes the caches only now."""
        read, self._read = self._read, []
        for job, tokens, cache in read:
            self._prefixes.put(job, tokens, cache)

    def jobs(self) -> list[Generation]:
        """Return the jobs that have not ended."""
        return [*(running.job for running in self._running.values()), *self._waiting]

    def owners(self) -> set[str]:
        """Return the owners of the jobs."""
        return {job.owner for job in self.jobs()}

    def close(self) -> None:
        """Release the generator."""
        self._generator.close()

    def _prefill_size(self, *, shared: bool) -> int:
        """Return how many tokens of each prompt a step computes; in `shared`, no more than `PREFILL_SECONDS` take."""
        readers = sum(running.reading for running in self._running.values()) or 1
        most = PREFILL_TOKENS // readers
        if shared and self._token_seconds:
            seconds = max(PREFILL_SECONDS, self._write_seconds)
            most = min(most, int(seconds / self._token_seconds / readers))
        return max(PREFILL_LEAST, most)

    def _begin_all(self, *, shared: bool) -> list[tuple[Generation, Piece]]:
        """Begin jobs while there are slots; return the failures."""
        failed = []
        while (job := self._next(shared=shared)) is not None:
            try:
                self._begin(job)
            except Exception as error:  # noqa: BLE001 - one job's error must not end the others
                failed.append((job, _failed(error)))
        return failed

    def _next(self, *, shared: bool) -> Generation | None:
        """Return the next job, of the owner with the fewest; in `shared`, an owner has one prompt at a time."""
        running = self._running.values()
        lines = Counter((answer.job.owner, answer.job.resident) for answer in running)
        held = Counter(answer.job.owner for answer in running)
        reading = Counter(answer.job.owner for answer in running if answer.reading)

        def may_begin(line: _Line) -> bool:
            owner, _ = line
            if self._width == 1:
                return not running
            return (
                has_room(held, owner, self._width)
                and has_room(reading, owner, min(self._width, PREFILL_ANSWERS))
                and not (shared and reading[owner])
            )

        entry = self._waiting.pop(lambda line: (held[line[0]], lines[line]), may_begin)
        return entry and entry[1]

    def _begin(self, job: Generation) -> None:
        running, prefix = RunningJob(job, self._tokenizer), self._prefixes.find(job)
        job.reused = prefix.length
        # The base alone computes the tokens before an aLoRA's invocation.
        cuts = sorted({prefix.length, *(c for c in (prefix.boundary, job.start) if c > prefix.length)})
        (uid,) = self._generator.insert_segments(
            [[job.tokens[cut:end] for cut, end in pairwise((*cuts, len(job.tokens)))]],
            caches=[prefix.cache],
            all_tokens=[job.tokens[: prefix.length]],
            max_tokens=[job.max_tokens],
            samplers=[make_sampler(job.sampling)],
            logits_processors=[
                [*make_processors(job.sampling), *([job.constraint] if job.constraint else [])]
            ],
            stop_sequences=[self._ends],
        )
        self._generator.numbers[uid] = job.resident.number if job.resident is not None else None
        self._generator.starts[uid] = job.start
        self._running[uid] = running

    def _end(self, uid: int) -> None:
        del self._running[uid], self._generator.numbers[uid], self._generator.starts[uid]


def _failed(error: Exception) -> Piece:
    # Only the type: an error's text may contain the prompt.
    LOG.error("generation failed for an answer: %s", type(error).__name__)
    return Piece("", 0, "error")
