"""Turns: only so many pages are made at a time, and who reads slowly takes nobody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from fusery.web.guard import AT_ONCE, Caught

SCOPE: Scope = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [],
}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def never(message: Message) -> None:
    """Send to somebody who reads nothing."""
    await asyncio.Event().wait()


async def status_of(caught: Caught) -> int:
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
        caught = Caught(app)
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
        caught = Caught(working)
        return list(await asyncio.gather(*(status_of(caught) for _ in range(5 * AT_ONCE))))

    assert asyncio.run(tried()) == [200] * (5 * AT_ONCE)
    assert most == AT_ONCE
