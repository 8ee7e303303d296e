"""`serving.py peer` and `adapters`: chats with a real model, beside `mlx_lm.server`, and on many adapters at once."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import course_answers
import openai
import tiny_models
from serving_servers import LANES, ROOT, Running, bundle, check, ours, processor_seconds, real_base, run

RULES = "You answer questions about the courses of a college. " + "Say the name of one course and why. " * 6
"""A system prompt that all chats of `peer` share, of some sixty tokens."""


def peer(scratch: Path, rounds: int, each: int, numbers: list[int]) -> None:
    """Ask our server and mlx-lm's the same, in turns: for each number of clients, some rounds with so many questions of each."""
    base = real_base(scratch)
    adapter = ROOT / "examples" / "course_rec" / "adapters_course_rec_v2_20261124"
    fused = scratch / "fused"
    options = {"--model": base, "--adapter-path": adapter, "--save-path": fused}
    command = [str(word) for option in options.items() for word in option]
    subprocess.run([sys.executable, "-m", "mlx_lm", "fuse", *command], check=True)
    questions = course_answers.questions()
    with (
        ours(bundle(scratch / "served", base, {"course_rec": adapter})) as mine,
        run(["-m", "mlx_lm", "server", "--model", str(fused), "--log-level", "ERROR"], "/health") as theirs,
    ):
        servers = {"ours": (mine, "course_rec"), "mlx_lm.server": (theirs, str(fused))}
        for server, model in servers.values():
            asyncio.run(chats(server.url, [model], [["Hello"]]))
        for clients in numbers:
            speeds: dict[str, list[float]] = {name: [] for name in servers}
            spent = dict.fromkeys(servers, 0.0)
            for number in range(rounds):
                # New questions each time: what is shared is the system prompt.
                some = [f"{number + 1}. {question}" for question in questions]
                asked = [some[client::clients][:each] for client in range(clients)]
                for name in list(servers)[:: 1 if number % 2 else -1]:
                    server, model = servers[name]
                    before = processor_seconds(server)
                    speeds[name].append(asyncio.run(chats(server.url, [model] * clients, asked)))
                    spent[name] += processor_seconds(server) - before
            ratios = [one / other for one, other in zip(*speeds.values(), strict=True)]
            told = ", ".join(f"{name} {statistics.median(found):.1f}" for name, found in speeds.items())
            print(
                f"{clients} clients: tokens/s {told}; ratios {', '.join(f'{found:.2f}' for found in ratios)}"
            )
            saved = spent["mlx_lm.server"] / spent["ours"]
            print(f"{clients} clients: mlx_lm.server takes {saved:.2f} times our seconds of the processor")
            ratio = statistics.median(ratios)
            check(f"{ratio:.2f} of mlx_lm.server's tokens a second, at least 0.95", ratio >= 0.95)
        shared(servers, questions)


def shared(servers: dict[str, tuple[Running, str]], questions: list[str], turns: int = 5) -> None:
    """Ask questions in turn after a system prompt that makes nine tenths of what is read, and compare the first tokens."""
    waits = {
        name: [first_token(server.url, model, questions[0])] for name, (server, model) in servers.items()
    }
    for turn in range(1, turns + 1):
        for name in list(servers)[:: 1 if turn % 2 else -1]:
            server, model = servers[name]
            waits[name].append(first_token(server.url, model, questions[turn]))
    for name, (first, *later) in waits.items():
        print(
            f"{name}: {first:.2f} s to the first token after a new system prompt, then {statistics.median(later):.2f} s"
        )
    mine, theirs = waits.values()
    ratio = statistics.median(a / b for a, b in zip(mine[1:], theirs[1:], strict=True))
    check(
        f"after a prompt that both have read, {ratio:.2f} of mlx_lm.server's time to the first token, at most 1",
        ratio <= 1,
    )


def adapters(scratch: Path, rounds: int, each: int) -> None:
    """Let 8 clients ask on 8 adapters and on one, with 8 and with 64 in memory, and where each adapter has passes of its own."""
    base = real_base(scratch, "bfloat16")
    many = {
        f"tenant-{number}": tiny_models.make_adapter(
            scratch / "adapters" / f"tenant-{number}", base, num_layers=16, seed=number
        )
        for number in range(64)
    }
    eight = dict(list(many.items())[:8])
    questions = course_answers.questions()
    with (
        ours(bundle(scratch / "eight", base, eight)) as few,
        ours(bundle(scratch / "many", base, many)) as full,
        ours(bundle(scratch / "lanes", base, eight), LANES) as lanes,
    ):
        ways = {
            "one adapter": (few, list(eight)[:1] * 8),
            "8 adapters": (few, list(eight)),
            "8 of 64 adapters": (full, list(many)[::8]),
            "8 lanes": (lanes, list(eight)),
        }
        # Each adapter reads the system prompt once, whoever else has.
        for server, models in list(ways.values())[1:]:
            asyncio.run(chats(server.url, models, [["Hello"]] * 8))
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            some = [f"{number + 1}. {question}" for question in questions]
            asked = [some[client::8][:each] for client in range(8)]
            for name in list(ways)[:: 1 if number % 2 else -1]:
                server, models = ways[name]
                before = processor_seconds(server)
                speeds[name].append(asyncio.run(chats(server.url, models, asked)))
                spent[name].append(processor_seconds(server) - before)
    for name, found in speeds.items():
        took = statistics.median(spent[name])
        print(f"{name}: tokens/s {statistics.median(found):.1f}, {took:.1f} s of the processor a round")

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True))

    for one, other, least in (
        ("8 adapters", "one adapter", 0.85),
        ("8 of 64 adapters", "one adapter", 0.8),
        ("8 adapters", "8 lanes", 1.5),
    ):
        found = ratio(one, other)
        saved = statistics.median(b / a for a, b in zip(spent[one], spent[other], strict=True))
        check(
            f"{one}: {found:.2f} times the tokens a second of {other}, at least {least}"
            f" (seconds of the processor: {saved:.2f})",
            found >= least,
        )


async def chats(url: str, models: list[str], asked: list[list[str]]) -> float:
    """Let clients, each with a model, ask one question after the other; return how many tokens a second they get together."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:

        async def one(model: str, questions: list[str]) -> int:
            written = 0
            for question in questions:
                messages: Any = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
                reply = await client.chat.completions.create(
                    model=model, messages=messages, max_tokens=24, temperature=0
                )
                written += reply.usage.completion_tokens if reply.usage else 0
            return written

        began = time.perf_counter()
        written = sum(await asyncio.gather(*map(one, models, asked)))
        return written / (time.perf_counter() - began)


def first_token(url: str, model: str, question: str) -> float:
    """Ask after a long system prompt and return the seconds until the first token."""
    rules: Any = {"role": "system", "content": "Courses are in the evening and at weekends. " * 85}
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        began = time.perf_counter()
        stream = client.chat.completions.create(
            model=model,
            messages=[rules, {"role": "user", "content": question}],
            max_tokens=4,
            stream=True,
        )
        taken = 0.0
        for chunk in stream:
            if not taken and chunk.choices and chunk.choices[0].delta.content:
                taken = time.perf_counter() - began
        return taken
