"""The service: engine, keys, the current routing table, running requests and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Receive

from ..registry.runtime.document import ServedAdapter, ServingDocument
from ..registry.runtime.errors import invalid
from ..registry.runtime.switching import Resident
from .engine import Engine
from .fairness import Admission, TenantExecutor
from .keys import Access, Keys
from .prompts import WIDTH, PromptEncoder
from .routing import RouteTarget, RoutingTable
from .schemas import DEFAULT_MODEL, Body, ChatBody, TextBody, read_body
from .structured import UNSUPPORTED, CallReader, Constraint, Grammars, forced_grammar
from .writing import Generation, Piece

LOG = logging.getLogger(__name__)

TEXT_TOKENS = 16  # default tokens of an answer to `/v1/completions`, as OpenAI's
BYTES_PER_TOKEN = 32  # of a request's body: several characters of a token, with up to 12 bytes in JSON
SPARE_BYTES, MOST_BYTES = 64 << 10, 4 << 20  # of a request's body: besides the prompt, and in all


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be answered."""

    body: Body
    target: RouteTarget
    jobs: list[Generation]
    prompt_tokens: int


class Service:
    """The server without HTTP."""

    def __init__(self, document: ServingDocument, folder: Path, keys: Keys) -> None:
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
        self.admission = Admission(
            lambda: self.table.document.limits,
            lambda owner, count: self.metrics.active.labels(owner).set(count),
        )
        self.calls: set[Call] = set()
        self.preparing, self.rendering = TenantExecutor(), TenantExecutor(WIDTH)
        self._document = document
        self._admitted: tuple[bool, Any] = (False, None)
        self._loop: asyncio.AbstractEventLoop | None = None
        prefixes, read = self.engine.prefixes, self.metrics.read
        read("fusery_keys_usable", "0 if all requests are refused, else 1.", lambda: keys.usable)
        read("fusery_prompt_cache_entries", "Prompts in the prompt cache.", lambda: len(prefixes))
        read("fusery_prompt_cache_bytes", "Bytes of the prompt cache.", lambda: prefixes.nbytes)
        read("fusery_adapter_switches", "Switches of the base model's adapter.", lambda: self.engine.switches)
        keys.count = lambda outcome: self.metrics.key_changes.labels(outcome).inc()

    def start(self, say: Callable[[str], None] = LOG.info) -> None:
        """Load the base model and the adapters, then follow the keys."""
        try:
            document = self._document
            say(f"loading {document.base.name}")
            self.engine.start(say)
            if document.adapters:
                say(f"loading adapters: {len(document.adapters)}")
            futures = {adapter.name: self.read(adapter) for adapter in document.adapters}
            self.publish(document, {name: future.result() for name, future in futures.items()})
            say("preparing the tokenizer and the chat template")
            self.prompts = PromptEncoder(
                self.engine.tokenizer, context=self.context, vocabulary=self.engine.vocabulary
            )
            self.prompts.start()
            self.grammars = Grammars(self.engine.tokenizer, self.engine.vocabulary)
        except BaseException:  # also a signal: mlx must not compute while the interpreter ends
            self.engine.stop()
            raise
        self.keys.start()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop that answers requests."""
        self._loop = loop

    def stop(self) -> None:
        """Drop the model."""
        self.keys.stop()
        self.preparing.close()
        self.rendering.close()
        self.prompts.close()
        self.engine.stop()

    def read(self, adapter: ServedAdapter) -> Any:
        """Read an adapter into memory; return the future."""
        return self.engine.load(adapter.name, self.folder / adapter.folder, adapter.digest)

    def publish(
        self, document: ServingDocument, residents: dict[str, Resident], extra_names: Collection[str] = ()
    ) -> None:
        """Replace the document, whose adapters are in memory; running answers go on."""
        self.table = RoutingTable(document, residents, extra_names)
        self.metrics.adapters.set(len(residents))
        self.metrics.adapter_bytes.set(sum(resident.nbytes for resident in residents.values()))
        self.engine.sweep()

    def check(self) -> None:
        """End answers of removed keys, and drop their cached prompts."""
        for call in list(self.calls):
            call.check(self.keys)
        usable, tenants = self.keys.usable, self.keys.tenants
        # The same keys are another object if others were valid between two checks.
        if usable != self._admitted[0] or tenants is not self._admitted[1]:
            self._admitted = usable, tenants
            self.engine.sweep()

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        limit = self._document.limits.context
        return min(limit, self.engine.context) if limit else self.engine.context

    @property
    def body_bytes(self) -> int:
        """Largest body of a request in bytes: from the document, else from the context."""
        given = self.table.document.limits.body_bytes
        return given or min(MOST_BYTES, SPARE_BYTES + self.context * BYTES_PER_TOKEN)

    async def prepare(self, data: bytes, kind: type[Body], access: Access) -> Prepared:
        """Read a request's body, and tokenise its prompts."""
        table = self.table
        body, target = await self.preparing.run(access.owner, lambda: self._read(table, data, kind, access))
        if not isinstance(body, ChatBody):
            return await self.preparing.run(access.owner, lambda: self._jobs(table, body, target, access))
        place = self.rendering if self.prompts.renders_apart else self.preparing
        tools = body.callable_tools
        if tools and not self.engine.tokenizer.has_tool_calling:
            raise invalid("tools", "this model's chat template has no known form for calls", UNSUPPORTED)
        text = await place.run(
            access.owner, lambda: self.prompts.render(body.messages, body.template_options, tools)
        )
        return await self.preparing.run(access.owner, lambda: self._jobs(table, body, target, access, text))

    def _read(
        self, table: RoutingTable, data: bytes, kind: type[Body], access: Access
    ) -> tuple[Body, RouteTarget]:
        body = read_body(data, kind)
        if body.model == DEFAULT_MODEL and table.default is not None:
            body.model = table.default
        elif "model" not in body.model_fields_set:
            raise invalid("model", "required")
        return body, table.choose(body.model, access.tenant, body.user)

    def _jobs(
        self, table: RoutingTable, body: Body, target: RouteTarget, access: Access, chat: str | None = None
    ) -> Prepared:
        sampling = body.sampling(self.engine.vocabulary)
        if chat is not None:
            prompts, default = [self.prompts.chat(chat)], self.context
        else:
            assert isinstance(body, TextBody)
            prompts, default = [self.prompts.text(prompt) for prompt in body.prompt], TEXT_TOKENS
        matcher = self._matcher(body)

        def may_keep() -> bool:
            return self.keys.objection(access, body.model) is None and self.table.has(target.resident)

        def job(tokens: list[int], number: int) -> Generation:
            seed = None if sampling.seed is None else (sampling.seed + number) % (1 << 64)
            return Generation(
                target.resident,
                tokens,
                min(body.length(default), table.document.limits.max_tokens, self.context - len(tokens)),
                replace(sampling, seed=seed),
                tuple(body.stop),
                owner=access.owner,
                continues=chat is None,
                alternatives=body.alternatives,
                constraint=matcher and Constraint(matcher, self.grammars.ends),
                may_keep=may_keep,
            )

        jobs = [job(tokens, number) for tokens in prompts for number in range(body.n)]
        return Prepared(body, target, jobs, sum(map(len, prompts)))

    def _matcher(self, body: Body) -> Any:
        """Return the matcher of an answer's grammar; None for any text."""
        if not isinstance(body, ChatBody):
            return None
        if body.answer_schema is not None:
            return self.grammars.of_schema(body.answer_schema, "response_format")
        if body.forced_tools:
            return self.grammars.of_lark(forced_grammar(self.engine.tokenizer, body.forced_tools), "tools")
        return None

    def reader(self, body: Body) -> CallReader | None:
        """Return the reader of an answer's calls; None if it may have none."""
        tools = body.callable_tools if isinstance(body, ChatBody) else []
        return CallReader(self.engine.tokenizer, tools) if tools else None

    def _post(self, pieces: Sequence[tuple[Generation, Piece]]) -> None:
        """Pass pieces to the event loop; the engine calls it."""

        def deliver() -> None:
            for job, piece in pieces:
                job.receiver(piece)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver)


GRACE_SECONDS = 0.5  # until an invalid file of keys ends answers: it may be being written


class ClientGoneError(Exception):
    """The client has closed its connection."""


class Call:
    """The context of one request in its task; `end` ends the block from outside."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.model: str | None = None
        self._why: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._objected: float | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        return self

    def end(self, why: Exception) -> None:
        """Leave the block with an exception."""
        if self._why is None:
            self._why = why
            self._task.cancel()

    def watch(self, receive: Receive) -> None:
        """End the block when the client disconnects; the whole body must have arrived."""
        self._watch = asyncio.create_task(self._wait(receive))

    def check(self, keys: Keys) -> None:
        """End the block when its key has been invalid for `GRACE_SECONDS`."""
        objection = keys.objection(self.access, self.model)
        if objection is None:
            self._objected = None
        elif self._objected is None:
            self._objected = time.monotonic()
        elif time.monotonic() - self._objected >= GRACE_SECONDS:
            self.end(objection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        # As in asyncio.timeout: only `end`'s own cancellation becomes the reason.
        if self._why is None or self._task.uncancel() > self._cancelling:
            return
        if isinstance(error, asyncio.CancelledError):
            raise self._why from None

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGoneError())


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's own metrics; labels are names of the document, so no client can invent new ones."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        times = partial(Histogram, labelnames=("model",), buckets=_SECONDS, registry=registry)
        by = ("model", "tenant")
        self.requests = counter("fusery_requests", "Answered requests by outcome.", (*by, "outcome"))
        self.prompt_tokens = counter("fusery_prompt_tokens", "Tokens of prompts.", by)
        self.reused_tokens = counter("fusery_prompt_tokens_reused", "Tokens from the prompt cache.", by)
        self.answer_tokens = counter("fusery_answer_tokens", "Tokens of answers.", by)
        self.seconds = times("fusery_request_seconds", "Until the last token.")
        self.first_token = times("fusery_first_token_seconds", "Until the first token.")
        self.active = gauge("fusery_active_answers", "Answers in progress or waiting.", ("tenant",))
        self.adapters = gauge("fusery_adapters", "Adapters in memory.")
        self.adapter_bytes = gauge("fusery_adapter_bytes", "Bytes of their tensors.")
        self.reloads = counter("fusery_reloads", "Changes of the document.", ("outcome",))
        self.refused = counter("fusery_refused", "Refused requests by HTTP status.", ("status",))
        self.key_changes = counter("fusery_key_changes", "Changes of the keys.", ("outcome",))

    def read(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a gauge with a function that returns its value."""
        Gauge(name, about, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
