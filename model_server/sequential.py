"""A batch for models whose caches cannot be merged: one answer beside the other, a token each in turn."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from ..registry.runtime.switching import Switchboard
from .batching import PREFILL_TOKENS, Batch
from .fairness import Throttle
from .prefixes import Prefixes
from .sampling import make_sampler
from .writing import Generation, Piece, RunningJob

Steps = Generator[tuple[int, Any] | None, None, None]


@dataclass(eq=False, slots=True)
class _RunningSteps:
    """One answer in progress.

    Attributes:
        cache: mlx-lm's caches of the prompt and of the answer so far; empty before the first step.
        steps: yields None for each part of the prompt that has been read, and then the tokens, each with the logarithms of the
            probabilities of all.
        read: how many tokens of the prompt the last step read.
    """

    running: RunningJob
    cache: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: Steps | None = None
    read: int = 0

    def end(self) -> None:
        """Leave mlx-lm's generator in its own thread; the collector of garbage may run in any."""
        if self.steps is not None:
            self.steps.close()


class SequentialBatch(Batch):
    """One answer beside the other, a token each in turn."""

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
        super().__init__(board, tokenizer, width=width, throttle=throttle, prefixes=prefixes)
        self._stream, self._size = stream, PREFILL_TOKENS
        self._runs: dict[Generation, _RunningSteps] = {}

    def remove(self, job: Generation) -> None:
        """Drop a job at whatever stage it is."""
        if not self._slots.leave(job) and job in self._runs:
            run = self._runs.pop(job)
            run.end()
            self._slots.end(run.running)

    def step(self) -> list[tuple[Generation, Piece]]:
        """Write a token of each answer, and read a part of the prompt of one."""
        for job in self._slots.begin():
            run = self._runs[job] = _RunningSteps(RunningJob(job, self._tokenizer))
            run.steps = self._steps(job, run)
        pieces = []
        unread = (job for job, run in self._runs.items() if run.running.reading)
        reading = next((job for job in unread if not self._throttle.resting(job.owner)), None)
        self.idle = reading is None
        for job, run in list(self._runs.items()):
            running = run.running
            if running.reading and job is not reading:
                continue
            self.idle = False
            began = time.perf_counter()
            if running.reading:
                self._size = self._rate.share(1, others=self._throttle.has_others(job.owner))
            assert run.steps is not None
            step = next(run.steps)
            if running.reading:
                self._slots.charge(job.owner, self._rate.note(time.perf_counter() - began, run.read))
            if step is None:
                self._runs[job] = self._runs.pop(job)  # the next part is another's
                continue
            self._slots.read(running)
            token, logprobs = step
            ended = token in self._tokenizer.eos_token_ids
            full = running.tokens + 1 >= job.max_tokens
            piece = running.add(token, "stop" if ended else "length" if full else None, logprobs)
            if piece.finish is not None:
                self._read.append((job, run.tokens, run.cache))
            pieces.append((job, piece))
        for job, piece in pieces:
            if piece.finish is not None:
                self.remove(job)
        return pieces

    def running(self) -> list[Generation]:
        """Return the jobs that have a slot."""
        return list(self._runs)

    def close(self) -> None:
        """Drop all jobs."""
        for run in self._runs.values():
            run.end()
        self._runs.clear()

    def _steps(self, job: Generation, run: _RunningSteps) -> Steps:
        """Read the prompt in parts, the last of them with the first token, and write."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.models.cache import make_prompt_cache

        prefix = self._prefixes.find(job)
        job.reused = place = prefix.length
        run.cache = prefix.cache or make_prompt_cache(self._model)
        run.tokens = job.tokens[:place]
        last = len(job.tokens) - 1
        while place < last:
            # A beginning that earlier prompts share is kept by itself where it cannot be cut out of a longer one.
            end = min(place + self._size, prefix.boundary if place < prefix.boundary else last)
            part = job.tokens[place:end]
            with mx.stream(self._stream):
                self._model(mx.array(part)[None], cache=run.cache)
                mx.eval([layer.state for layer in run.cache])
            mx.clear_cache()
            run.tokens += part
            run.read, place = len(part), end
            if self._prefixes.limit and place in (prefix.boundary, last):
                self._prefixes.put(job, run.tokens, copy.deepcopy(run.cache))
            if place < last:
                yield None
        run.read += 1
        before = mx.array(job.tokens[:last], mx.int32)
        run.tokens.append(job.tokens[last])
        for token, logprobs in generate_step(
            mx.array(job.tokens[last:], mx.int32),
            self._model,
            self._stream,
            max_tokens=job.max_tokens,
            sampler=make_sampler(job.sampling),
            logits_processors=[_after(before, processor) for processor in job.processors()],
            prompt_cache=run.cache,
        ):
            # mlx-lm is a token ahead: this one is in the cache already.
            run.tokens.append(int(token))
            yield run.tokens[-1], logprobs


def _after(read: Any, processor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a processor of logits see what of the prompt was read before, too."""
    import mlx.core as mx

    return lambda tokens, logits: processor(mx.concatenate([read, tokens]), logits)
