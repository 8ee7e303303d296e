"""Answers in progress on one adapter, some tokens further at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .sampling import Sampling, make_processors, make_sampler
from .stopping import StopWords
from .switching import Resident

PREFILL_TOKENS = 512
"""How much of its prompts a lane reads at a step: short enough that the other lanes' answers do not falter."""

PREFILL_ANSWERS = 8
"""How many prompts it reads at once."""

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
        cancelled: nobody wants the answer any more.
    """

    resident: Resident | None
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    receiver: Any = None
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
    """

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job, self.tokens = job, 0
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
    """The jobs of one adapter, which must be on the base while `step` runs."""

    def insert(self, job: Job) -> None:
        """Take a job in; it may have to wait within the lane."""

    def remove(self, job: Job) -> None:
        """Drop a job; one that is not there has ended."""

    def step(self) -> list[tuple[Job, Piece]]:
        """Go on by up to one token for each job."""

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""

    def close(self) -> None:
        """Give back what the lane holds."""


class BatchLane:
    """Continuous batching by mlx-lm's `BatchGenerator`."""

    def __init__(self, model: Any, tokenizer: Any, *, width: int, stream: Any) -> None:
        from mlx_lm.generate import BatchGenerator, make_stop_sequences

        self._tokenizer = tokenizer
        self._ends = make_stop_sequences(tokenizer)
        self._writings: dict[int, Writing] = {}
        self._generator = BatchGenerator(
            model,
            completion_batch_size=width,
            prefill_batch_size=min(width, PREFILL_ANSWERS),
            prefill_step_size=PREFILL_TOKENS,
            stream=stream,
        )

    def insert(self, job: Job) -> None:
        """Take a job in; beyond the width it waits in the generator."""
        (uid,) = self._generator.insert(
            [list(job.tokens)],
            max_tokens=[job.max_tokens],
            samplers=[make_sampler(job.sampling)],
            logits_processors=[make_processors(job.sampling)],
            stop_sequences=[self._ends],
        )
        self._writings[uid] = Writing(job, self._tokenizer)

    def remove(self, job: Job) -> None:
        """Drop a job at whatever stage it is."""
        for uid, writing in list(self._writings.items()):
            if writing.job is job:
                del self._writings[uid]
                self._generator.remove([uid])

    def step(self) -> list[tuple[Job, Piece]]:
        """Read a part of the prompts, and write a token of each answer."""
        _, answers = self._generator.next()
        pieces, over = [], []
        for answer in answers:
            writing = self._writings[answer.uid]
            piece = writing.add(answer.token, answer.finish_reason)
            if piece.finish is not None:
                del self._writings[answer.uid]
                if answer.finish_reason is None:
                    over.append(answer.uid)
            pieces.append((writing.job, piece))
        if over:
            self._generator.remove(over)
        return pieces

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [writing.job for writing in self._writings.values()]

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()


class SoloLane:
    """One answer beside the other, a token each in turn: for models whose caches do not make a batch."""

    def __init__(self, model: Any, tokenizer: Any, *, width: int, stream: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._width, self._stream = width, stream
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, tuple[Writing, Iterator[tuple[Any, Any]]]] = {}

    def insert(self, job: Job) -> None:
        """Take a job in; beyond the width it waits."""
        self._waiting.append(job)

    def remove(self, job: Job) -> None:
        """Drop a job."""
        self._running.pop(job, None)
        if job in self._waiting:
            self._waiting.remove(job)

    def step(self) -> list[tuple[Job, Piece]]:
        """Write a token of each answer; the prompt of a new one is read whole."""
        while self._waiting and len(self._running) < self._width:
            job = self._waiting.popleft()
            self._running[job] = Writing(job, self._tokenizer), self._begin(job)
        pieces = []
        for job, (writing, tokens) in self._running.items():
            token, _ = next(tokens)
            ended = token in self._tokenizer.eos_token_ids
            full = writing.tokens + 1 >= job.max_tokens
            pieces.append((job, writing.add(token, "stop" if ended else "length" if full else None)))
        for job, piece in pieces:
            if piece.finish is not None:
                self.remove(job)
        return pieces

    def jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [*self._running, *self._waiting]

    def close(self) -> None:
        """Forget everything."""
        self._running.clear()
        self._waiting.clear()

    def _begin(self, job: Job) -> Iterator[tuple[Any, Any]]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        tokens: Iterator[tuple[Any, Any]] = generate_step(
            mx.array(job.tokens),
            self._model,
            self._stream,
            max_tokens=job.max_tokens,
            sampler=make_sampler(job.sampling),
            logits_processors=make_processors(job.sampling),
            prefill_step_size=PREFILL_TOKENS,
        )
        return tokens
