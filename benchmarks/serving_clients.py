"""Concurrent clients of a server with shift-cipher adapters; each client checks its answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import shift_cipher_adapters
from openai import AsyncOpenAI


@dataclass
class Outcome:
    """Counts, answer times and errors of all clients."""

    requests: int = 0
    tokens: int = 0
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Caesar:
    """The name, shift and rank of an adapter, from which its answers follow."""

    name: str
    shift: int
    rank: int = 27


async def crowd(
    url: str, adapters: Sequence[Caesar], *, clients: int, seconds: float, key: str = "none"
) -> Outcome:
    """Run clients for some seconds; each asks random adapters as text, chat or stream, or hangs up."""
    outcome = Outcome()
    end = time.monotonic() + seconds
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
        await asyncio.gather(
            *(_ask_on(client, adapters, outcome, end, random.Random(number)) for number in range(clients))
        )
    return outcome


async def _ask_on(
    client: AsyncOpenAI, adapters: Sequence[Caesar], outcome: Outcome, end: float, chance: random.Random
) -> None:
    while time.monotonic() < end:
        adapter = chance.choice(adapters)
        began = time.monotonic()
        try:
            wrong = await _ask(client, adapter, outcome, chance)
        except Exception as error:  # noqa: BLE001 - every error is counted
            outcome.errors.append(f"{type(error).__name__}: {error}")
            continue
        outcome.requests += 1
        outcome.seconds.append(time.monotonic() - began)
        if wrong:
            outcome.wrong.append(wrong)


async def _ask(client: AsyncOpenAI, adapter: Caesar, outcome: Outcome, chance: random.Random) -> str:
    """Ask once; return a description of a wrong answer, else an empty text."""
    way, length = chance.choice(["text", "chat", "stream", "hang up"]), chance.randint(1, 24)
    letters = min(adapter.rank - 1, 26)
    prompt = "x" * chance.randint(0, 60) + chr(shift_cipher_adapters.FIRST + chance.randrange(letters))
    prompts = [{"role": "user", "content": prompt}]
    if way == "text":
        reply = await client.completions.create(model=adapter.name, prompt=prompt, max_tokens=length)
        answer, expected = (
            reply.choices[0].text,
            shift_cipher_adapters.answer(prompt, adapter.shift, length, rank=adapter.rank),
        )
    else:
        expected = shift_cipher_adapters.chat_answer(adapter.shift, length, rank=adapter.rank)
        if way == "chat":
            whole = await client.chat.completions.create(
                model=adapter.name,
                messages=prompts,  # type: ignore[arg-type]
                max_tokens=length,
            )
            answer = whole.choices[0].message.content or ""
        else:
            stream = await client.chat.completions.create(
                model=adapter.name,
                messages=prompts,  # type: ignore[arg-type]
                max_tokens=length if way == "stream" else 500,
                stream=True,
            )
            answer = ""
            async for chunk in stream:
                answer += chunk.choices[0].delta.content or ""
                if way == "hang up" and len(answer) >= length:
                    answer = answer[:length]
                    outcome.cancelled += 1
                    await stream.close()
                    break
    outcome.tokens += len(answer)
    return "" if answer == expected else f"{adapter.name}, {way}: {answer!r} instead of {expected!r}"
