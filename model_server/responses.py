"""A completion in the form of OpenAI's API; it ends early if the client disconnects or its key is removed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ..registry.runtime.errors import Refusal
from .keys import Access
from .sampling import TokenLogprob, chat_form, text_form
from .schemas import Body, ChatBody
from .service import Call, ClientGoneError, Prepared, Service
from .writing import Piece

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class AnswerChoice:
    """One running answer."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)


def event(document: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


class Answers:
    """The answers to one request, `n` for each of its prompts."""

    def __init__(self, service: Service, prepared: Prepared) -> None:
        self._engine, self._prepared = service.engine, prepared
        self._chat = isinstance(prepared.body, ChatBody)
        self._readers = [service.reader(prepared.body) for _ in prepared.jobs]
        self.choices = [AnswerChoice() for _ in prepared.jobs]
        self._created, self._id = int(time.time()), secrets.token_hex(12)
        self.first: float | None = None
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

    @property
    def reused(self) -> int:
        """Tokens of its prompts from the prompt cache; each prompt counts once."""
        return sum(job.reused for job in self._prepared.jobs[:: self._prepared.body.n])

    async def whole(self) -> dict[str, object]:
        """Wait for the answers, and return the document of all."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        choices = [self._choice(number, choice) for number, choice in enumerate(self.choices)]
        return {**self._head(stream=False), "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream, beginning with the first token; in a chat, the role of each answer comes first."""
        rest = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        async with aclosing(self.pieces()) as pieces:
            openings = [self._chunk([{"index": n, **rest}]) for n in range(len(self.choices)) if self._chat]
            async for number, piece in pieces:
                for opening in openings:
                    yield opening
                openings = []
                if piece.text or piece.finish or piece.logprob or piece.calls:
                    yield self._chunk([self._piece(number, piece)])
        if self._prepared.body.stream_options.include_usage:
            yield self._chunk([], usage=self._usage())
        yield DONE

    def _chunk(self, choices: list[dict[str, object]], **more: Any) -> bytes:
        return event({**self._head(stream=True), "choices": choices, **more})

    def _head(self, *, stream: bool) -> dict[str, object]:
        name = "chat.completion" + (".chunk" if stream else "") if self._chat else "text_completion"
        target = self._prepared.target
        return {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{self._id}",
            "object": name,
            "created": self._created,
            "model": target.name,
            "system_fingerprint": f"fusery-{target.digest[:16]}" if target.digest else None,
        }

    def _usage(self) -> dict[str, object]:
        prompt_tokens, written = self._prepared.prompt_tokens, sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": written,
            "total_tokens": prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": self.reused},
        }

    def _piece(self, number: int, piece: Piece) -> dict[str, object]:
        """Return a new piece of an answer, which its choice has already."""
        choice = self.choices[number]
        delta: dict[str, object] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            before = len(choice.calls) - len(piece.calls)
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(piece.calls, before)]
        content = {"delta": delta} if self._chat else {"text": piece.text}
        logprobs = self._logprobs(choice, choice.logprobs[-1:] if piece.logprob else [])
        return {"index": number, "logprobs": logprobs, "finish_reason": piece.finish, **content}

    def _choice(self, number: int, choice: AnswerChoice) -> dict[str, object]:
        logprobs = self._logprobs(choice, choice.logprobs)
        common = {"index": number, "logprobs": logprobs, "finish_reason": choice.finish}
        if not self._chat:
            return {**common, "text": choice.text}
        message: dict[str, object] = {"role": "assistant", "content": choice.text}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": choice.calls}
        return {**common, "message": message}

    def _logprobs(self, choice: AnswerChoice, logprobs: list[TokenLogprob]) -> dict[str, object] | None:
        """Return the log probabilities of an answer's last tokens."""
        if self._prepared.body.alternatives is None:
            return None
        if self._chat:
            return chat_form(logprobs)
        before = choice.logprobs[: len(choice.logprobs) - len(logprobs)]
        return text_form(logprobs, sum(len(logprob.token) for logprob in before))

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Begin the jobs and yield their pieces, each with the number of its answer; at the end, cancel running ones."""
        try:
            for number, job in enumerate(self._prepared.jobs):
                job.receiver = lambda piece, number=number: self._queue.put_nowait((number, piece))
                self._engine.submit(job)
            left = len(self.choices)
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
            for job, choice in zip(self._prepared.jobs, self.choices, strict=True):
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


BODY_SECONDS = 30.0  # to receive a request
FAREWELL_SECONDS = 1.0  # to send the error that ends a stream to a slow client


class Completions:
    """The application of a route for completions."""

    def __init__(self, service: Service, kind: type[Body]) -> None:
        self._service, self._kind = service, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; raise a `Refusal` if nothing was sent yet."""
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
                with service.admission.answers(access.tenant, more, counted_answers=1):
                    answer = Answers(service, prepared)
                    with _counted(service, access, prepared, answer, began):
                        if prepared.body.stream:
                            async with aclosing(answer.events()) as events:
                                async for event_bytes in events:
                                    await stream.send(event_bytes)
                            await stream.end()
                        else:
                            await JSONResponse(await answer.whole())(scope, receive, send)
        except ClientGoneError:
            return
        except Refusal as refusal:
            if not stream.begun:
                raise
            await stream.end(event(refusal.document))
        finally:
            service.calls.discard(call)


class Stream:
    """A response of server-sent events; it begins with the first one, so that an earlier failure has its own status."""

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
        """Send the end; give up if it is an error and the client does not read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS if last else None):
                await self._send({"type": "http.response.body", "body": last, "more_body": False})


def announced(headers: Headers, limit: int) -> int:
    """Return the largest possible size of a body from its headers; its type must be JSON, which web forms cannot send."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the Content-Type must be application/json")
    given = headers.get("content-length")
    if given is not None and "transfer-encoding" in headers:
        # A proxy may go by either of them.
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
