"""Answers in progress on one adapter, some tokens further at every step.

Who has a place in a lane and who waits for one is up to `places`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .fairness import Rests
from .places import PREFILL_ANSWERS, Places
from .sampling import Sampling, make_processors, make_sampler
from .stopping import StopWords
from .switching import Resident

PREFILL_TOKENS = 512
"""How much of its prompts a lane reads at a step, of all together: short enough that other answers do not falter."""

PREFILL_LEAST = 32
"""How much of each at least; no more when somebody of them should rest."""

Finish = Literal["stop", "length"]


@dataclass(eq=False, slots=True)
class Job:
    """One answer to be written.

    Attributes:
        resident: the adapter, None for the base.
        tokens: the prompt.
        max_tokens: of the answer.
        sampling: how tokens are chosen.
        stop: strings that end the answer.
        receiver: whatever the engine's `post` needs to hand the text on.
        owner: whose share it uses.
        cancelled: nobody wants the answer any more.
    """

    resident: Resident | None
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    receiver: Any = None
    owner: str = ""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What a job has got further.

    Attributes:
        text: new text, perhaps none.
        tokens: how many new tokens.
        finish: why it has ended, "error" when generation failed; None while it goes on.
    """

    text: str
    tokens: int
    finish: Finish | Literal["error"] | None = None


class Writing:
    """The text of one answer, made from its tokens.

    Attributes:
        job: whose answer it is.
        tokens: how many there were.
        reading: the prompt is still being read.
    """

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job, self.tokens, self.reading = job, 0, True
        self._detokenizer = tokenizer.detokenizer
        self._stop = StopWords(job.stop)

    def add(self, token: int, finish: Finish | None) -> Piece:
        """Return what a token adds; `finish` is "stop" for a token that ends a text and is none of it."""
        self.tokens += 1
        if finish != "stop":
            self._detokenizer.add_token(token)
        if finish is not None:
            self._detokenizer.finalize()
        text = self._stop.push(self._detokenizer.last_segment)
        if self._stop.found:
            return Piece(text, 1, "stop")
        return Piece(text + self._stop.finish() if finish else text, 1, finish)


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
        self._plain = 0.0  # seconds of a step that only writes
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
        rested = [owner for owner in readers if not self._rests.resting(owner)]
        size = 0
        if rested:
            size = max(PREFILL_LEAST, PREFILL_TOKENS // len(readers))
            if len(rested) < len(readers):
                size = PREFILL_LEAST
        self._generator.prefill_step_size = size
        began = time.perf_counter()
        progress, answers = self._generator.next()
        seconds = time.perf_counter() - began
        if size:
            for owner in readers:
                self._rests.charge(owner, max(0.0, seconds - self._plain) / len(readers))
        elif answers:
            self._plain = seconds
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


class SoloLane:
    """One answer beside the other, a token each in turn: for models whose caches do not make a batch."""

    def __init__(self, model: Any, tokenizer: Any, *, width: int, stream: Any, rests: Rests) -> None:
        self._model, self._tokenizer, self._stream = model, tokenizer, stream
        self._places, self._rests = Places(width, rests), rests
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
            token = next(tokens)
            if writing.reading:
                self._rests.charge(job.owner, time.perf_counter() - began)
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
        while len(rest) > PREFILL_TOKENS:
            part, rest = rest[:PREFILL_TOKENS], rest[PREFILL_TOKENS:]
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
            prefill_step_size=PREFILL_TOKENS,
        ):
            yield int(token)


def _after(read: list[Any], processor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a processor of logits see the parts of the prompt that were read before, too."""
    import mlx.core as mx

    return lambda tokens, logits: processor(mx.concatenate([*read, tokens]), logits)
