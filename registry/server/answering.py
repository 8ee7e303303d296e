"""One request being answered: its jobs in the engine, and their text as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from .engine import Engine
from .errors import Refusal
from .replies import DONE, Choice, Reply, usage
from .tools import CallReader
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

    def __init__(
        self,
        engine: Engine,
        reply: Reply,
        jobs: Sequence[Job],
        readers: Sequence[CallReader | None],
        *,
        repeats: int = 1,
    ) -> None:
        """Prepare.

        Args:
            engine: writes.
            reply: who answers.
            jobs: the answers, those of one prompt after those of the one before.
            readers: for each of them, what takes calls out of it; None if it may have none.
            repeats: how many of them each prompt has.
        """
        self.reply, self._repeats, self._readers = reply, repeats, readers
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
                if piece.text or piece.finish or piece.logprob or piece.calls:
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
                piece = self._without_calls(number, piece)
                if self.first is None and piece.tokens:
                    self.first = time.perf_counter()
                choice.text += piece.text
                choice.calls += piece.calls
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

    def _without_calls(self, number: int, piece: Piece) -> Piece:
        """Return a piece with its calls apart from its text."""
        reader = self._readers[number]
        if reader is None or piece.finish == "error":
            return piece
        text, calls = reader.push(piece.text, last=piece.finish is not None)
        called = calls or self.choices[number].calls
        finish = "tool_calls" if called and piece.finish == "stop" else piece.finish
        return replace(piece, text=text, calls=tuple(calls), finish=finish)
