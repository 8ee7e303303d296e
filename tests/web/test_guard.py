"""Turns: only so many pages are made at a time, and who reads slowly takes nobody's."""

from __future__ import annotations

import asyncio
import itertools
import logging
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from page_server import ask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from fusery.web import limits
from fusery.web.answers import refusal
from fusery.web.auth import UnexpectedError
from fusery.web.limits import Slots

pytestmark = pytest.mark.timing

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
AT_ONCE, EACH = limits.AT_ONCE


def askers() -> Callable[[Any], str]:
    numbers = itertools.count()
    return lambda _: str(next(numbers))


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def never(message: Message) -> None:
    await asyncio.Event().wait()


async def turns_of_the_loop() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def status_of(caught: Slots) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(caught(SCOPE, receive, send), 30)
    return int(sent[0]["status"])


async def answered(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("made")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("an error of our own")


@pytest.mark.parametrize(("app", "status"), [(answered, 200), (broken, 500)])
def test_who_reads_slowly_takes_nobody_s_turn(app: Callable[..., Any], status: int) -> None:
    async def tried() -> int:
        caught = Slots(app, askers())
        slow = [asyncio.create_task(caught(SCOPE, receive, never)) for _ in range(2 * AT_ONCE)]
        await asyncio.sleep(0)
        try:
            return await status_of(caught)
        finally:
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    assert asyncio.run(tried()) == status


def test_so_many_are_worked_on_at_a_time_and_all_get_their_turn() -> None:
    at_work, most = 0, 0

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.01)
        at_work -= 1
        await answered(scope, receive, send)

    async def tried() -> list[int]:
        caught = Slots(working, askers())
        return list(await asyncio.gather(*(status_of(caught) for _ in range(5 * AT_ONCE))))

    assert asyncio.run(tried()) == [200] * (5 * AT_ONCE)
    assert most == AT_ONCE


def test_a_rate_limit_remembers_the_last_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_REMEMBERED", 2)
    now = [0.0]
    limit = limits.RateLimit(0.5, 1, lambda: now[0])
    assert [limit.wait(client) for client in ("a", "a", "b")] == [0.0, 2.0, 0.0]
    now[0] = 1.0
    assert (limit.wait("a"), limit.wait("c"), limit.wait("b")) == (1.0, 0.0, 0.0), "b was forgotten"
    now[0] = 3.0
    assert limit.wait("c") == 0.0


def test_a_slot_of_a_request_that_was_cancelled_is_free_again() -> None:
    async def tried() -> list[bool]:
        queue = limits.FairQueue(1, 1)
        await queue.take("a")
        first, second = (asyncio.create_task(queue.take("b")) for _ in range(2))
        await turns_of_the_loop()
        first.cancel()
        await turns_of_the_loop()
        waiting = [first.cancelled(), second.done()]
        queue.release("a")
        await turns_of_the_loop()
        return [*waiting, second.done()]

    assert asyncio.run(tried()) == [True, False, True]


def test_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def gone(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    caplog.set_level(logging.INFO)
    asyncio.run(Slots(gone, askers())(SCOPE, receive, never))
    request = Request({**SCOPE, "headers": [(b"accept", b"application/json")], "request_id": "1"})
    answer = refusal(request, UnexpectedError("the store /secret is away"), 503)
    messages = [record.getMessage() for record in caplog.records]
    assert any("client disconnected" in message for message in messages)
    assert any("the store /secret is away" in message for message in messages)
    assert (answer.status_code, b"/secret" in answer.body) == (503, False)


def test_who_asks_for_much_waits_behind_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING", 2 * EACH)
    ends, at_work = asyncio.Event(), list[str]()

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        at_work.append(scope["asker"])
        if scope["asker"] == "much":
            await ends.wait()
        await answered(scope, receive, send)

    async def asked(caught: Slots, asker: str, path: str = "/") -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        left = [await receive()]

        async def received() -> Message:
            if left:
                return left.pop()
            await asyncio.Event().wait()
            raise AssertionError

        await caught({**SCOPE, "path": path, "asker": asker}, received, send)
        return int(sent[0]["status"])

    async def tried() -> None:
        caught = Slots(working, lambda request: str(request.scope["asker"]))
        many = [asyncio.create_task(asked(caught, "much")) for _ in range(3 * EACH)]
        await turns_of_the_loop()
        assert at_work == ["much"] * EACH
        assert await asyncio.wait_for(asked(caught, "little"), 10) == 200
        assert await asyncio.wait_for(asked(caught, "much"), 10) == 429, "so many wait already"
        assert await asyncio.wait_for(asked(caught, "nobody", "/style.css"), 10) == 200
        monkeypatch.setattr(limits, "QUEUED", 0.05)
        many[-1].cancel()
        await asyncio.gather(many[-1], return_exceptions=True)
        assert await asyncio.wait_for(asked(caught, "much"), 10) == 429, "none was free in time"
        ends.set()
        assert await asyncio.gather(*many[:-1]) == [200] * (3 * EACH - 1)
        assert await asyncio.wait_for(asked(caught, "much"), 10) == 200

    asyncio.run(tried())


SLOW = (
    b"POST /api/v1/adapters/yank-all HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 90\r\n\r\n{"
)
"""A request of which more never comes."""


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def test_who_sends_slowly_takes_nobody_s_turn(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE", 600)
    with ExitStack() as opened:
        slow = [opened.enter_context(connect(address)) for _ in range(2 * AT_ONCE)]
        for connection in slow:
            connection.sendall(SLOW)
        assert ask(address, "/log").status == 200
        assert select.select(slow, [], [], 0)[0] == []


def test_who_sends_slowly_is_told_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE", 0.2)
    with connect(address) as connection:
        connection.sendall(SLOW)
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_a_body_without_a_length_is_bounded_too(address: str) -> None:
    head = SLOW.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with connect(address) as connection:
        connection.sendall(head + (b"40000\r\n" + b"x" * 0x40000 + b"\r\n") * 5)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_refusal_of_the_host_is_like_all_others(address: str) -> None:
    refused = ask(address, "/log", host="evil.example", accept="application/json")
    assert set(refused.json["error"]) == {"code", "message", "hint"}
    assert "www-authenticate" not in refused.headers
    assert refused.headers["cache-control"] == "private, no-cache" and "Cookie" in refused.headers["vary"]
    assert refused.status == ask(address, "/log", host="evil.example", accept="text/html").status == 403


def test_every_response_carries_a_request_id(address: str) -> None:
    for path, status in (("/", 200), ("/nothing", 404), ("/style.css", 200)):
        own = ask(address, path, x_request_id="trace-1")
        assert (own.status, own.headers["x-request-id"]) == (status, "trace-1")
    assert ask(address, "/", host="evil.example", x_request_id="trace-2").headers["x-request-id"] == "trace-2"
