"""What runs: the engine, the table of names as it is now, and who has how many answers in progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bodies import Body, ChatBody, TextBody
from .document import Adapter, Document, Tenant
from .engine import Engine
from .errors import Refusal
from .lanes import Job, Piece
from .metrics import Metrics
from .prompts import Prompts
from .routing import Table, Target
from .switching import Resident

TEXT_TOKENS = 16
"""Tokens of an answer to `/v1/completions` that names no number: OpenAI's default."""


class Service:
    """The server without its HTTP.

    Attributes:
        engine: has the model.
        table: names, tenants, adapters; replaced as a whole by `publish`.
        metrics: what is counted.
        prompts: makes tokens.
    """

    def __init__(self, document: Document, folder: Path) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            document: what is served.
            folder: that its folders are relative to.
        """
        self.folder = folder
        self.metrics = Metrics()
        self.engine = Engine(folder / document.base.folder, self._post, width=document.limits.batch)
        self._document = document
        self._active: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Load the base and the adapters, and wait for them.

        Raises:
            EngineError: the base cannot be loaded, or its chat template not be rendered.
            AdapterError: an adapter cannot be put on it.
        """
        try:
            self.engine.start()
            self.metrics.count_switches(lambda: self.engine.switches)
            document = self._document
            futures = {adapter.name: self.read(adapter) for adapter in document.adapters}
            self.publish(document, {name: future.result() for name, future in futures.items()})
            self.prompts = Prompts(
                self.engine.tokenizer, context=self.context, vocabulary=self.engine.vocabulary
            )
            self.prompts.start()
        except BaseException:  # a signal, too: the end of the interpreter must not meet mlx at work
            self.engine.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether answers can be given."""
        return self.engine.alive and self.prompts.templates.able

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop in which requests are answered."""
        self._loop = loop

    def stop(self) -> None:
        """Drop the model."""
        self.prompts.close()
        self.engine.stop()

    def read(self, adapter: Adapter) -> Any:
        """Read an adapter into memory; return the future."""
        return self.engine.load(adapter.name, self.folder / adapter.folder, adapter.digest)

    def publish(self, document: Document, residents: dict[str, Resident]) -> None:
        """Answer from now on by another document, whose adapters are all in memory; what is in progress goes on."""
        self.table = Table(document, residents)
        self.metrics.adapters.set(len(residents))
        self.metrics.adapter_bytes.set(sum(resident.nbytes for resident in residents.values()))

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        limit = self._document.limits.context
        return min(limit, self.engine.context) if limit else self.engine.context

    async def jobs(self, body: Body, target: Target) -> tuple[list[Job], int]:
        """Return the jobs of a request, and the number of tokens in its prompts.

        Raises:
            Refusal: a prompt is too long, or is none; an option is beyond what the model has.
        """
        if isinstance(body, ChatBody):
            template = {str(name): value for name, value in body.chat_template_kwargs.items()}
            tokens = await self.prompts.chat(body.messages, template)
            prompts, default = [tokens], self.context
        else:
            assert isinstance(body, TextBody)
            prompts, default = [await self.prompts.text(prompt) for prompt in body.prompt], TEXT_TOKENS
        sampling = body.sampling(self.engine.vocabulary)
        longest = self.table.document.limits.max_tokens
        made = []
        for tokens in prompts:
            most = min(body.length(default), longest, self.context - len(tokens))
            for number in range(body.n):
                seed = None if sampling.seed is None else (sampling.seed + number) % (1 << 64)
                options = replace(sampling, seed=seed)
                made.append(Job(target.resident, tokens, most, options, tuple(body.stop)))
        return made, sum(map(len, prompts))

    @contextmanager
    def admitted(self, tenant: Tenant | None, answers: int) -> Iterator[None]:
        """Count answers as in progress while the block runs.

        Raises:
            Refusal: there are too many already, of all tenants or of this one.
        """
        name = tenant.name if tenant else ""
        limit = self.table.document.limits.waiting
        own = tenant.concurrent if tenant else None
        if self._active.total() + answers > limit or (own and self._active[name] + answers > own):
            raise Refusal(
                429,
                "too many requests at once; try again in a moment",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self._active[name] += answers
        self.metrics.active.labels(name).set(self._active[name])
        try:
            yield
        finally:
            self._active[name] -= answers
            self.metrics.active.labels(name).set(self._active[name])

    def _post(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        """Hand pieces over to the event loop; called by the engine."""
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(_deliver, pieces)


def _deliver(pieces: Sequence[tuple[Job, Piece]]) -> None:
    for job, piece in pieces:
        job.receiver.put(piece)
