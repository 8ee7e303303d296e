"""Clients of a server with Caesar's adapters: many at once, each of which knows what it has to be told."""

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
    """What a crowd of clients saw."""

    requests: int = 0
    tokens: int = 0
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Caesar:
    """One adapter as a client knows it."""

    name: str
    shift: int
    rank: int = 27


async def crowd(
    url: str, adapters: Sequence[Caesar], *, clients: int, seconds: float, key: str = "none"
) -> Outcome:
    """Let clients ask for a time, each for one adapter after the other, in every way there is."""
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
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to tell of it
            outcome.errors.append(f"{type(error).__name__}: {error}")
            continue
        outcome.requests += 1
        outcome.seconds.append(time.monotonic() - began)
        if wrong:
            outcome.wrong.append(wrong)


async def _ask(client: AsyncOpenAI, adapter: Caesar, outcome: Outcome, chance: random.Random) -> str:
    """Ask once; return what was wrong with the answer, or nothing."""
    way, length = chance.choice(["text", "chat", "stream", "hang up"]), chance.randint(1, 24)
    letters = min(adapter.rank - 1, 26)
    prompt = "x" * chance.randint(0, 60) + chr(shift_cipher_adapters.FIRST + chance.randrange(letters))
    prompts = [{"role": "user", "content": prompt}]
    if way == "text":
        reply = await client.completions.create(model=adapter.name, prompt=prompt, max_tokens=length)
        said, expected = (
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
            said = whole.choices[0].message.content or ""
        else:
            stream = await client.chat.completions.create(
                model=adapter.name,
                messages=prompts,  # type: ignore[arg-type]
                max_tokens=length if way == "stream" else 500,
                stream=True,
            )
            said = ""
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
                if way == "hang up" and len(said) >= length:
                    said = said[:length]
                    outcome.cancelled += 1
                    await stream.close()
                    break
    outcome.tokens += len(said)
    return "" if said == expected else f"{adapter.name}, {way}: {said!r} instead of {expected!r}"
