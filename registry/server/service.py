"""What runs: the engine, the keys, the table of names as it is now, and who has how much in progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .admission import Admission
from .bodies import DEFAULT_MODEL, Body, ChatBody, TextBody, read_body
from .calls import Calls
from .desk import Desk
from .document import Adapter, Document
from .engine import Engine
from .errors import Refusal
from .keys import Access, Keys
from .metrics import Metrics
from .prompts import WIDTH, Prompts
from .routing import Table, Target
from .structured import Constraint, Grammars
from .switching import Resident
from .tools import CallReader, forced_grammar, require_tools
from .writing import Job, Piece

LOG = logging.getLogger(__name__)

TEXT_TOKENS = 16
"""Tokens of an answer to `/v1/completions` that names no number: OpenAI's default."""

BYTES_PER_TOKEN = 32
"""Of a request's body: JSON may spell a character with 6 bytes, or with 12, and a token may be several."""

SPARE_BYTES, MOST_BYTES = 64 << 10, 4 << 20
"""Of a request's body: for everything else in it, and in all."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be answered.

    Attributes:
        body: what it says.
        target: what answers.
        jobs: one for each answer.
        prompt_tokens: in all of its prompts.
    """

    body: Body
    target: Target
    jobs: list[Job]
    prompt_tokens: int


class Service:
    """The server without its HTTP.

    Attributes:
        keys: who may ask.
        engine: has the model.
        table: names and adapters; replaced as a whole by `publish`.
        metrics: what is counted.
        admission: who has how much in progress.
        calls: requests in progress.
        desk: where they are made ready.
        rendering: where chat templates are waited for.
    """

    def __init__(self, document: Document, folder: Path, keys: Keys) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            document: what is served.
            folder: that its folders are relative to.
            keys: who may ask.
        """
        self.folder, self.keys = folder, keys
        self.metrics = Metrics()
        limits = document.limits
        self.engine = Engine(
            folder / document.base.folder,
            self._post,
            tokenizer=None if document.base.tokenizer is None else folder / document.base.tokenizer,
            width=limits.batch,
            prompt_cache_bytes=limits.prompt_cache_bytes,
        )
        self.admission = Admission(lambda: self.table.document.limits, self.metrics)
        self.calls = Calls(keys)
        self.desk = Desk(self.admission.owners)
        self.rendering = Desk(self.admission.owners, threads=WIDTH, waits=True)
        self._document = document
        self._missing: set[tuple[str, str]] = set()
        self._let_in: tuple[bool, Any] = (False, None)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.metrics.tell_keys(lambda: keys.usable)
        prefixes = self.engine.prefixes
        self.metrics.tell_prompt_cache(lambda: len(prefixes), lambda: prefixes.nbytes)
        keys.count = lambda outcome: self.metrics.key_changes.labels(outcome).inc()

    def start(self, say: Callable[[str], None] = LOG.info) -> None:
        """Load the base and the adapters, wait for them, and follow the keys.

        Args:
            say: called with each progress message, in this thread or the engine's.

        Raises:
            EngineError: the base cannot be loaded, or its chat template not be rendered.
            AdapterError: an adapter cannot be put on it.
        """
        try:
            document = self._document
            say(f"loading {document.base.name}")
            self.engine.start(say)
            self.metrics.count_switches(lambda: self.engine.switches)
            if document.adapters:
                say(f"loading adapters: {len(document.adapters)}")
            futures = {adapter.name: self.read(adapter) for adapter in document.adapters}
            self.publish(document, {name: future.result() for name, future in futures.items()})
            say("preparing the tokenizer and the chat template")
            self.prompts = Prompts(
                self.engine.tokenizer, context=self.context, vocabulary=self.engine.vocabulary
            )
            self.prompts.start()
            self.grammars = Grammars(self.engine.tokenizer, self.engine.vocabulary)
        except BaseException:  # a signal, too: the end of the interpreter must not meet mlx at work
            self.engine.stop()
            raise
        self.keys.start()

    @property
    def alive(self) -> bool:
        """Whether answers can be given."""
        return self.engine.alive and self.prompts.templates.able

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop in which requests are answered."""
        self._loop = loop

    def stop(self) -> None:
        """Drop the model."""
        self.keys.stop()
        self.desk.close()
        self.rendering.close()
        self.prompts.close()
        self.engine.stop()

    def read(self, adapter: Adapter) -> Any:
        """Read an adapter into memory; return the future."""
        return self.engine.load(adapter.name, self.folder / adapter.folder, adapter.digest)

    def publish(
        self, document: Document, residents: dict[str, Resident], beside: Collection[str] = ()
    ) -> None:
        """Answer from now on by another document, whose adapters are all in memory; what is in progress goes on."""
        self.table = Table(document, residents, beside)
        self.metrics.adapters.set(len(residents))
        self.metrics.adapter_bytes.set(sum(resident.nbytes for resident in residents.values()))
        self.engine.sweep()

    def check(self) -> None:
        """End what is answered for keys that are no good any more, and log which models tenants have lost."""
        self.calls.check()
        usable, tenants = self.keys.usable, self.keys.tenants
        # Keys that were good for a moment between two checks are the same as before, and another object.
        if usable != self._let_in[0] or tenants is not self._let_in[1]:
            self._let_in = usable, tenants
            self.engine.sweep()
        names = set(self.table.names(None))
        missing = {
            (tenant.name, model)
            for tenant in self.keys.tenants
            for model in tenant.models or ()
            if model not in names
        }
        if new := missing - self._missing:
            told = ", ".join(f"{tenant} may use {model}" for tenant, model in sorted(new)[:10])
            LOG.warning("tenants may use what is not served (%d names): %s", len(new), told)
        self._missing = missing

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        limit = self._document.limits.context
        return min(limit, self.engine.context) if limit else self.engine.context

    @property
    def body_bytes(self) -> int:
        """Bytes that a request may have: what the context can hold, unless the document says otherwise."""
        given = self.table.document.limits.body_bytes
        return given or min(MOST_BYTES, SPARE_BYTES + self.context * BYTES_PER_TOKEN)

    async def prepare(self, data: bytes, kind: type[Body], access: Access) -> Prepared:
        """Return what a request's body asks for, made ready.

        Raises:
            Refusal: it cannot be read, asks for what is not there or may not be, or is too long.
        """
        table = self.table
        body, target = await self.desk.do(access.owner, lambda: self._read(table, data, kind, access))
        if not isinstance(body, ChatBody):
            return await self.desk.do(access.owner, lambda: self._jobs(table, body, target, access))
        template = {str(name): value for name, value in body.chat_template_kwargs.items()}
        place = self.rendering if self.prompts.renders_apart else self.desk
        tools = body.callable_tools
        if tools:
            require_tools(self.engine.tokenizer)
        text = await place.do(access.owner, lambda: self.prompts.render(body.messages, template, tools))
        return await self.desk.do(access.owner, lambda: self._jobs(table, body, target, access, text))

    def _read(self, table: Table, data: bytes, kind: type[Body], access: Access) -> tuple[Body, Target]:
        body = read_body(data, kind)
        if body.model == DEFAULT_MODEL and table.default is not None:
            body.model = table.default
        elif "model" not in body.model_fields_set:
            raise Refusal(400, "model is required", param="model")
        return body, table.choose(body.model, access.tenant, body.user)

    def _jobs(
        self, table: Table, body: Body, target: Target, access: Access, chat: str | None = None
    ) -> Prepared:
        sampling = body.sampling(self.engine.vocabulary)
        if sampling.xtc_probability:
            sampling = replace(sampling, xtc_spared=self.prompts.spared())
        if chat is not None:
            prompts, default = [self.prompts.chat(chat)], self.context
        else:
            assert isinstance(body, TextBody)
            prompts, default = [self.prompts.text(prompt) for prompt in body.prompt], TEXT_TOKENS
        matcher = self._matcher(body)
        longest = table.document.limits.max_tokens
        made = []
        for tokens in prompts:
            most = min(body.length(default), longest, self.context - len(tokens))
            for number in range(body.n):
                seed = None if sampling.seed is None else (sampling.seed + number) % (1 << 64)
                options = replace(sampling, seed=seed)
                made.append(
                    Job(
                        target.resident,
                        tokens,
                        most,
                        options,
                        tuple(body.stop),
                        owner=access.owner,
                        continues=chat is None,
                        alternatives=body.alternatives,
                        constraint=matcher and Constraint(matcher, self.grammars.ends),
                        may_keep=partial(self._may_keep, access, body.model, target.resident),
                    )
                )
        return Prepared(body, target, made, sum(map(len, prompts)))

    def _matcher(self, body: Body) -> Any:
        """Return what an answer must match; None for any text."""
        if not isinstance(body, ChatBody):
            return None
        if body.answer_schema is not None:
            return self.grammars.of_schema(body.answer_schema, "response_format")
        if body.forced_tools:
            return self.grammars.of_lark(forced_grammar(self.engine.tokenizer, body.forced_tools), "tools")
        return None

    def _may_keep(self, access: Access, model: str, resident: Resident | None) -> bool:
        """Tell whether what was read for a request may be kept: its key is good, and what answered it is still there."""
        return self.keys.objection(access, model) is None and self.table.has(resident)

    def reader(self, body: Body) -> CallReader | None:
        """Return what takes the calls out of an answer; None if it may have none."""
        tools = body.callable_tools if isinstance(body, ChatBody) else []
        return CallReader(self.engine.tokenizer, tools) if tools else None

    def _post(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        """Hand pieces over to the event loop; called by the engine."""
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(_deliver, pieces)


def _deliver(pieces: Sequence[tuple[Job, Piece]]) -> None:
    for job, piece in pieces:
        job.receiver.put(piece)
