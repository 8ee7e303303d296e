"""Answers one beside the other, for models whose caches do not make a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .fairness import Rests
from .places import PREFILL_TOKENS, Pace, Places
from .sampling import make_processors, make_sampler
from .writing import Job, Piece, Writing


class SoloLane:
    """One answer beside the other, a token each in turn: for models whose caches do not make a batch."""

    def __init__(self, model: Any, tokenizer: Any, *, width: int, stream: Any, rests: Rests) -> None:
        self._model, self._tokenizer, self._stream = model, tokenizer, stream
        self._places, self._rests = Places(width, rests), rests
        self._pace, self._size = Pace(), PREFILL_TOKENS
        self.idle = False
        self._running: dict[Job, tuple[Writing, Iterator[int | None]]] = {}

    def insert(self, job: Job) -> None:
        """Take a job in."""
        self._places.wait(job)

    def remove(self, job: Job) -> None:
        """Drop a job."""
        if not self._places.leave(job) and job in self._running:
            self._places.end(self._running.pop(job)[0])

    def step(self) -> list[tuple[Job, Piece]]:
        """Write a token of each answer, and read a part of the prompt of one."""
        for job in self._places.begin():
            self._running[job] = Writing(job, self._tokenizer), self._tokens(job)
        pieces = []
        reading = next(
            (
                job
                for job, (writing, _) in self._running.items()
                if writing.reading and not self._rests.resting(job.owner)
            ),
            None,
        )
        self.idle = reading is None
        for job, (writing, tokens) in list(self._running.items()):
            if writing.reading and job is not reading:
                continue
            self.idle = False
            began = time.perf_counter()
            if writing.reading:
                self._size = self._pace.share(1, others=self._rests.has_others(job.owner))
            token = next(tokens)
            if writing.reading:
                took = self._pace.note(time.perf_counter() - began, self._size)
                self._places.charge(job.owner, took)
            if token is None:
                self._running[job] = self._running.pop(job)  # the next part is another's
                continue
            self._places.read(writing)
            ended = token in self._tokenizer.eos_token_ids
            full = writing.tokens + 1 >= job.max_tokens
            pieces.append((job, writing.add(token, "stop" if ended else "length" if full else None)))
        for job, piece in pieces:
            if piece.finish is not None:
                self.remove(job)
        return pieces

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [*self._running, *self._places.waiting()]

    def owners(self) -> set[str]:
        """Return whose jobs these are."""
        return {job.owner for job in self.jobs()}

    def close(self) -> None:
        """Forget everything."""
        self._running.clear()

    def _tokens(self, job: Job) -> Iterator[int | None]:
        """Yield None for each part of the prompt but the last that has been read, and then the tokens."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self._model)
        rest = mx.array(job.tokens)
        read: list[Any] = []
        while len(rest) > self._size:
            part, rest = rest[: self._size], rest[self._size :]
            with mx.stream(self._stream):
                self._model(part[None], cache=cache)
                mx.eval([layer.state for layer in cache])
            read.append(part)
            mx.clear_cache()
            yield None
        processors = [_after(read, processor) for processor in make_processors(job.sampling)]
        for token, _ in generate_step(
            rest,
            self._model,
            self._stream,
            max_tokens=job.max_tokens,
            sampler=make_sampler(job.sampling),
            logits_processors=processors,
            prompt_cache=cache,
            prefill_step_size=self._size,
        ):
            yield int(token)


def _after(read: list[Any], processor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a processor of logits see the parts of the prompt that were read before, too."""
    import mlx.core as mx

    return lambda tokens, logits: processor(mx.concatenate([*read, tokens]), logits)
