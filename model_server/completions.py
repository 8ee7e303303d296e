"""One request for a completion, from its head to the last byte of its answer.

The order is what protects the others: whose key it is, what may be in progress for it, and only then a byte of the body.
A request ends early when its client goes or its key is taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Literal

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ..registry.runtime.errors import Refusal
from .keys import Access
from .responses import Answers, Reply, event
from .schemas import Body
from .service import Call, ClientGoneError, Prepared, Service

BODY_SECONDS = 30.0  # time for a client to send its request
FAREWELL_SECONDS = 1.0  # time to tell a client that reads slowly why its stream ends


class Completions:
    """An application for one of the two paths that answer."""

    def __init__(self, service: Service, kind: type[Body], form: Literal["chat", "text"]) -> None:
        self._service, self._kind, self._form = service, kind, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a `Refusal` is raised where nothing was sent."""
        service, headers, began = self._service, Headers(scope=scope), time.perf_counter()
        access = service.keys.authenticate(headers.get("authorization"))
        length = announced(headers, service.body_bytes)
        stream = Stream(send)
        call = Call(access)
        service.calls.add(call)
        try:
            with service.admission.answers(access.tenant, 1), call:
                with service.admission.bytes(access.owner, length):
                    data = await received(receive, length)
                    call.watch(receive)
                    prepared = await service.prepare(data, self._kind, access)
                call.model = prepared.body.model
                more = len(prepared.jobs) - 1
                with service.admission.answers(access.tenant, more, beside=1):
                    reply = Reply(self._form, prepared.target)
                    readers = [service.reader(prepared.body) for _ in prepared.jobs]
                    answer = Answers(service.engine, reply, prepared.jobs, readers, repeats=prepared.body.n)
                    with _counted(service, access, prepared, answer, began):
                        if prepared.body.stream:
                            await self._stream(stream, answer, prepared)
                        else:
                            document = await answer.whole(prepared.prompt_tokens)
                            await JSONResponse(document)(scope, receive, send)
        except ClientGoneError:
            return
        except Refusal as refusal:
            if not stream.begun:
                raise
            await stream.end(event(refusal.document))
        finally:
            service.calls.discard(call)

    async def _stream(self, stream: Stream, answer: Answers, prepared: Prepared) -> None:
        usage = bool(prepared.body.stream_options.include_usage)
        async with aclosing(answer.events(prepared.prompt_tokens, include_usage=usage)) as events:
            async for data in events:
                await stream.send(data)
        await stream.end()


class Stream:
    """A reply of server-sent events, begun with the first of them: until then, a failure is a reply of its own."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def send(self, data: bytes) -> None:
        """Send an event."""
        if not self.begun:
            self.begun = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        """Send the end; a client that does not read any more need not get it."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS if last else None):
                await self._send({"type": "http.response.body", "body": last, "more_body": False})
        except TimeoutError:
            return


def announced(headers: Headers, limit: int) -> int:
    """Return how many bytes a body can have, by its head.

    The type must be JSON, which keeps web pages from posting here.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the Content-Type must be application/json")
    given = headers.get("content-length")
    if given is not None and "transfer-encoding" in headers:
        # Its bytes were counted by the one and come by the other, and a proxy before this server may believe either.
        closing = {"Connection": "close"}
        raise Refusal(400, "a request has a Content-Length or a Transfer-Encoding, not both", headers=closing)
    length = limit if given is None else int(given)
    if length > limit:
        raise _too_long(limit)
    return length


async def received(receive: Receive, limit: int) -> bytes:
    """Return a request's body."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                data += message["body"]
                if len(data) > limit:
                    raise _too_long(limit)
                if not message["more_body"]:
                    return bytes(data)
    except TimeoutError as error:
        raise Refusal(408, f"the request took more than {BODY_SECONDS:.0f} s to arrive") from error


def _too_long(limit: int) -> Refusal:
    return Refusal(413, f"the request has more than {limit} bytes")


@contextmanager
def _counted(
    service: Service, access: Access, prepared: Prepared, answer: Answers, began: float
) -> Iterator[None]:
    """Count what becomes of one request."""
    metrics, labels = service.metrics, (prepared.target.name, access.owner)
    metrics.prompt_tokens.labels(*labels).inc(prepared.prompt_tokens)
    outcome = "cancelled"
    try:
        yield
    except Refusal:
        outcome = "failed"
        raise
    finally:
        ended = all(choice.finish for choice in answer.choices)
        metrics.requests.labels(*labels, "done" if ended else outcome).inc()
        metrics.reused_tokens.labels(*labels).inc(answer.reused)
        metrics.answer_tokens.labels(*labels).inc(sum(choice.tokens for choice in answer.choices))
        if answer.first is not None:
            metrics.first_token.labels(labels[0]).observe(answer.first - began)
        if ended:
            metrics.seconds.labels(labels[0]).observe(time.perf_counter() - began)
