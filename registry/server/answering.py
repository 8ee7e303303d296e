"""One request being answered: its jobs in the engine, and their text as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from .engine import Engine
from .errors import Refusal
from .replies import DONE, Choice, Reply, usage
from .writing import Job, Piece

_Entry = tuple[int, Piece]


class Receiver:
    """Where the engine's pieces for one job arrive; `put` runs in the event loop."""

    def __init__(self, queue: asyncio.Queue[_Entry], number: int) -> None:
        self._queue, self._number = queue, number

    def put(self, piece: Piece) -> None:
        """Take a piece."""
        self._queue.put_nowait((self._number, piece))


class Answer:
    """The answers to one request: several where it has several prompts or asks for several.

    Attributes:
        reply: who answers.
        choices: the answers as far as they are.
        first: when the first token was there, as `time.perf_counter` has it; None before.
    """

    def __init__(self, engine: Engine, reply: Reply, jobs: Sequence[Job], *, repeats: int = 1) -> None:
        """Prepare.

        Args:
            engine: writes.
            reply: who answers.
            jobs: the answers, those of one prompt after those of the one before.
            repeats: how many of them each prompt has.
        """
        self.reply, self._repeats = reply, repeats
        self.choices = [Choice(asks_logprobs=job.alternatives is not None) for job in jobs]
        self._engine, self._jobs = engine, jobs
        self.first: float | None = None
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue()

    @property
    def reused(self) -> int:
        """How many tokens of its prompts had been read before; each prompt counts once, as in `usage`."""
        return sum(job.reused for job in self._jobs[:: self._repeats])

    async def whole(self, prompt_tokens: int) -> dict[str, Any]:
        """Wait for the answers; `prompt_tokens` is for `usage`.

        Raises:
            Refusal: generation failed.
        """
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.reply.whole(self.choices, usage(self.choices, prompt_tokens, self.reused))

    async def events(self, prompt_tokens: int, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream, the first of them when there is a first token.

        Raises:
            Refusal: generation failed.
        """
        async with aclosing(self.pieces()) as pieces:
            begun = False
            async for number, piece in pieces:
                if not begun:
                    begun = True
                    for opening in self.reply.opening(len(self.choices)):
                        yield opening
                if piece.text or piece.finish or piece.logprob:
                    yield self.reply.piece(number, piece, self.choices[number])
        if include_usage:
            yield self.reply.closing(usage(self.choices, prompt_tokens, self.reused))
        yield DONE

    async def pieces(self) -> AsyncGenerator[_Entry, None]:
        """Begin the jobs and yield their pieces, each with the number of its answer, until all have ended.

        However it is left, the engine drops what has not ended.

        Raises:
            Refusal: generation failed.
        """
        try:
            for number, job in enumerate(self._jobs):
                job.receiver = Receiver(self._queue, number)
                self._engine.submit(job)
            left = len(self._jobs)
            while left:
                number, piece = await self._queue.get()
                choice = self.choices[number]
                if self.first is None and piece.tokens:
                    self.first = time.perf_counter()
                choice.text += piece.text
                if piece.logprob is not None:
                    choice.logprobs.append(piece.logprob)
                choice.tokens += piece.tokens
                if piece.finish == "error":
                    raise Refusal(500, "generation failed")
                if piece.finish is not None:
                    choice.finish = piece.finish
                    left -= 1
                yield number, piece
        finally:
            for job, choice in zip(self._jobs, self.choices, strict=True):
                if choice.finish is None:
                    self._engine.cancel(job)
