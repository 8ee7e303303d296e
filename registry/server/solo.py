"""Answers one beside the other, for models whose caches do not make a batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from .fairness import Rests
from .places import PREFILL_TOKENS, Pace, Places
from .prefixes import Prefixes
from .sampling import make_sampler
from .switching import Switchboard
from .writing import Job, Piece, Writing

Steps = Generator[tuple[int, Any] | None, None, None]


@dataclass(eq=False, slots=True)
class _Run:
    """One answer in progress.

    Attributes:
        writing: its text.
        cache: mlx-lm's caches of the prompt and of what was written; empty before the first step.
        tokens: what they hold.
        steps: yields None for each part of the prompt that has been read, and then the tokens, each with the logarithms of the
            probabilities of all.
        read: how many tokens of the prompt the last step read.
    """

    writing: Writing
    cache: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: Steps | None = None
    read: int = 0

    def end(self) -> None:
        """Leave mlx-lm's generator in the thread that it is of; the collector of garbage may run in any."""
        if self.steps is not None:
            self.steps.close()


class SoloLane:
    """One answer beside the other, a token each in turn: for models whose caches do not make a batch."""

    def __init__(
        self, board: Switchboard, tokenizer: Any, *, width: int, stream: Any, rests: Rests, prefixes: Prefixes
    ) -> None:
        self._model, self._tokenizer, self._stream = board.model, tokenizer, stream
        self._prefixes = prefixes
        self._places, self._rests = Places(width, rests), rests
        self._pace, self._size = Pace(), PREFILL_TOKENS
        self.idle = False
        self._running: dict[Job, _Run] = {}
        self._read: list[tuple[Job, list[int], list[Any]]] = []

    def insert(self, job: Job) -> None:
        """Take a job in."""
        self._places.wait(job)

    def remove(self, job: Job) -> None:
        """Drop a job."""
        if not self._places.leave(job) and job in self._running:
            run = self._running.pop(job)
            run.end()
            self._places.end(run.writing)

    def step(self) -> list[tuple[Job, Piece]]:
        """Write a token of each answer, and read a part of the prompt of one."""
        for job in self._places.begin():
            run = self._running[job] = _Run(Writing(job, self._tokenizer))
            run.steps = self._steps(job, run)
        pieces = []
        reading = next(
            (
                job
                for job, run in self._running.items()
                if run.writing.reading and not self._rests.resting(job.owner)
            ),
            None,
        )
        self.idle = reading is None
        for job, run in list(self._running.items()):
            writing = run.writing
            if writing.reading and job is not reading:
                continue
            self.idle = False
            began = time.perf_counter()
            if writing.reading:
                self._size = self._pace.share(1, others=self._rests.has_others(job.owner))
            assert run.steps is not None
            found = next(run.steps)
            if writing.reading:
                took = self._pace.note(time.perf_counter() - began, run.read)
                self._places.charge(job.owner, took)
            if found is None:
                self._running[job] = self._running.pop(job)  # the next part is another's
                continue
            self._places.read(writing)
            token, logprobs = found
            ended = token in self._tokenizer.eos_token_ids
            full = writing.tokens + 1 >= job.max_tokens
            piece = writing.add(token, "stop" if ended else "length" if full else None, logprobs)
            if piece.finish is not None:
                self._read.append((job, run.tokens, run.cache))
            pieces.append((job, piece))
        for job, piece in pieces:
            if piece.finish is not None:
                self.remove(job)
        return pieces

    def keep(self) -> None:
        """Keep what has been read of answers that have ended."""
        read, self._read = self._read, []
        for job, tokens, cache in read:
            self._prefixes.put(job, tokens, cache)

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [*self._running, *self._places.waiting()]

    def owners(self) -> set[str]:
        """Return whose jobs these are."""
        return {job.owner for job in self.jobs()}

    def close(self) -> None:
        """Forget everything."""
        for run in self._running.values():
            run.end()
        self._running.clear()

    def _steps(self, job: Job, run: _Run) -> Steps:
        """Read the prompt in parts, the last of them with the first token, and write."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.models.cache import make_prompt_cache

        found = self._prefixes.find(job)
        job.reused = place = found.length
        run.cache = found.cache or make_prompt_cache(self._model)
        run.tokens = job.tokens[:place]
        last = len(job.tokens) - 1
        while place < last:
            # What earlier prompts began with alike is kept by itself where it cannot be cut out of a longer one.
            end = min(place + self._size, found.boundary if place < found.boundary else last)
            part = job.tokens[place:end]
            with mx.stream(self._stream):
                self._model(mx.array(part)[None], cache=run.cache)
                mx.eval([layer.state for layer in run.cache])
            mx.clear_cache()
            run.tokens += part
            run.read, place = len(part), end
            if self._prefixes.limit and place in (found.boundary, last):
                self._prefixes.put(job, run.tokens, copy.deepcopy(run.cache))
            if place < last:
                yield None
        run.read += 1
        before = mx.array(job.tokens[:last], mx.int32)
        processors = [_after(before, processor) for processor in job.processors()]
        run.tokens.append(job.tokens[last])
        for token, logprobs in generate_step(
            mx.array(job.tokens[last:], mx.int32),
            self._model,
            self._stream,
            max_tokens=job.max_tokens,
            sampler=make_sampler(job.sampling),
            logits_processors=processors,
            prompt_cache=run.cache,
        ):
            # mlx-lm is a token ahead: this one is in the cache already.
            run.tokens.append(int(token))
            yield run.tokens[-1], logprobs


def _after(read: Any, processor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a processor of logits see what of the prompt was read before, too."""
    import mlx.core as mx

    return lambda tokens, logits: processor(mx.concatenate([read, tokens]), logits)
