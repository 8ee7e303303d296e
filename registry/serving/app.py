"""HTTP: OpenAI's paths, errors in OpenAI's form, `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Lifespan, Receive, Scope, Send

from .answering import Answer, ClientGoneError
from .bodies import Body, ChatBody, TextBody, read_body
from .document import Tenant
from .errors import Refusal
from .metrics import CONTENT_TYPE
from .replies import Reply
from .routing import Target
from .service import Service

LOG = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""Time for a client to send its request."""


def create_app(service: Service, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application for a service that has been started; `lifespan` runs around it."""
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    created = int(time.time())

    @app.get("/health")
    async def health() -> Response:
        alive = service.alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        tenant = service.table.authenticate(request.headers.get("authorization"))
        if tenant is not None and not tenant.metrics:
            raise Refusal(403, "this key may not read the metrics", code="forbidden")
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        tenant = service.table.authenticate(request.headers.get("authorization"))
        listed = [_model(service, name, created) for name in service.table.names(tenant)]
        return JSONResponse({"object": "list", "data": listed})

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        tenant = service.table.authenticate(request.headers.get("authorization"))
        service.table.choose(name, tenant, None)
        return JSONResponse(_model(service, name, created))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _complete(service, request, ChatBody, "chat")

    @app.post("/v1/completions")
    async def text(request: Request) -> Response:
        return await _complete(service, request, TextBody, "text")

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return JSONResponse(error.document, error.status, headers=error.headers)

    @app.exception_handler(ClientGoneError)
    async def gone(request: Request, error: ClientGoneError) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")
        return JSONResponse(refusal.document, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback; the client gets no word of it.
        return JSONResponse(Refusal(500, "internal error").document, 500)

    return app


def _model(service: Service, name: str, created: int) -> dict[str, Any]:
    versions = service.table.versions(name)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "fusery",
        "root": service.table.document.base.name,
        "versions": versions,
    }


async def _complete(
    service: Service, request: Request, kind: type[Body], form: Literal["chat", "text"]
) -> Response:
    """Answer a request for a completion."""
    tenant = service.table.authenticate(request.headers.get("authorization"))
    began = time.perf_counter()
    body = read_body(await _read(request, service.table.document.limits.body_bytes), kind)
    target = service.table.choose(body.model, tenant, body.user)
    account = _Account(service, tenant, target, began)
    jobs, prompt_tokens = await service.jobs(body, target)
    answer = Answer(service.engine, Reply(form, target), jobs)
    if not body.stream:
        with service.admitted(tenant, len(jobs)), account.of(answer, prompt_tokens):
            return JSONResponse(await answer.whole(request.receive, prompt_tokens))
    usage = bool(body.stream_options.include_usage)

    async def events() -> AsyncGenerator[bytes, None]:
        with service.admitted(tenant, len(jobs)), account.of(answer, prompt_tokens):
            made = answer.events(request.receive, prompt_tokens, include_usage=usage)
            async with aclosing(made) as each:
                async for event in each:
                    yield event

    return await Events.begin(events())


async def _read(request: Request, limit: int) -> bytes:
    """Return a request's body.

    Raises:
        Refusal: it is no JSON by its type, which keeps web pages from posting here unasked; is too long or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the Content-Type must be application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise Refusal(413, f"the request has more than {limit} bytes")
    except TimeoutError as error:
        raise Refusal(408, f"the request took more than {BODY_SECONDS:.0f} s to arrive") from error
    return bytes(data)


class Events(Response):
    """A stream of server-sent events, of which the first is there: until then, a failure is an error of its own."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream")
        self._first, self._rest = first, rest
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"

    @classmethod
    async def begin(cls, events: AsyncGenerator[bytes, None]) -> Events:
        """Wait for the first event."""
        return cls(await anext(events), events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come; the generation ends when the client goes."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._rest) as rest:
            await send(head)
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for event in rest:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except ClientGoneError:
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Account:
    """Counts what becomes of one request."""

    def __init__(self, service: Service, tenant: Tenant | None, target: Target, began: float) -> None:
        self._metrics = service.metrics
        self._labels = (target.name, tenant.name if tenant else "")
        self._began = began

    def of(self, answer: Answer, prompt_tokens: int) -> _Account:
        self._answer, self._prompt_tokens = answer, prompt_tokens
        return self

    def __enter__(self) -> None:
        self._metrics.prompt_tokens.labels(*self._labels).inc(self._prompt_tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        model = self._labels[0]
        ended = all(choice.finish for choice in self._answer.choices)
        outcome = "done" if ended else "failed" if isinstance(error, Refusal) else "cancelled"
        self._metrics.requests.labels(*self._labels, outcome).inc()
        self._metrics.answer_tokens.labels(*self._labels).inc(
            sum(choice.tokens for choice in self._answer.choices)
        )
        if self._answer.first is not None:
            self._metrics.first_token.labels(model).observe(self._answer.first - self._began)
        if ended:
            self._metrics.seconds.labels(model).observe(time.perf_counter() - self._began)
