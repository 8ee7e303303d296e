"""`serving.py switching`: what it costs that the next request is for another adapter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import openai
import tiny_models
from serving_servers import Running, bundle, check, large_base, ours, run

COUNT = count(33)


def switching(scratch: Path, rounds: int = 10) -> None:
    """Take turns between two adapters and stay with one, in our server and in mlx-lm's."""
    base = large_base(scratch)
    adapters = {
        name: tiny_models.make_adapter(scratch / name, base, num_layers=16, seed=number)
        for number, name in enumerate(("a", "b"))
    }
    costs = {}
    with ours(bundle(scratch / "both", base, adapters)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)
        costs["ours"] = measure(server, lambda name: answer(client, name), rounds)
    with run(["-m", "mlx_lm", "server", "--model", str(base)], "/health") as server:
        peer = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)
        body = {name: {"adapters": str(path)} for name, path in adapters.items()}
        costs["mlx_lm.server"] = measure(
            # With its default model it takes no notice of the adapter.
            server,
            lambda name: answer(peer, str(base), body[name]),
            max(3, rounds // 3),
        )
    for label, cost in costs.items():
        print(
            f"{label}: a request takes {cost.wall * 1e3:.0f} ms, of which {cost.same * 1e3:.0f} ms of the processor;"
            f" when the adapter changes, {cost.extra * 1e3:+.1f} ms more (standard error {cost.error * 1e3:.1f})"
        )
    mine, theirs = costs["ours"], costs["mlx_lm.server"]
    # What is measured may be nothing: the bound is what it is at most, with 97.5 % probability.
    bound = max(mine.extra + 2 * mine.error, 1e-6)
    check(
        f"switching costs at most {bound / mine.same:.2%} of a request, under 5 %", bound < 0.05 * mine.same
    )
    # What a request shows of it is noise: the switch itself, timed alone, is what the reload is compared with.
    alone = switch_seconds(base, list(adapters.values()))
    print(f"ours: setting the layers of another adapter takes {alone * 1e6:.1f} us")
    ratio = (theirs.extra - 2 * theirs.error) / alone
    check(f"mlx_lm.server takes at least {ratio:,.0f} times as long to switch, 20 or more", ratio >= 20)


def switch_seconds(base: Path, adapters: list[Path], times: int = 5000) -> float:
    """Return what it takes to put another adapter on the base, without a server around it."""
    from mlx_lm.utils import load_model

    from fusery.registry.runtime.switching import Switchboard

    board = Switchboard(load_model(base, lazy=True)[0])
    residents = [board.load(path.name, path) for path in adapters]
    began = time.perf_counter()
    for number in range(times):
        board.use(residents[number % len(residents)])
    assert board.switches == times
    return (time.perf_counter() - began) / times


def answer(client: openai.OpenAI, model: str, more: dict[str, str] | None = None) -> None:
    """Ask for one token, each time about something else, since mlx-lm's server keeps prompts."""
    client.completions.create(
        model=model,
        prompt=f"{chr(next(COUNT))} boats",
        max_tokens=1,
        temperature=0,
        extra_body={**(more or {}), "logit_bias": {"256": -100, "258": -100}},
    )


@dataclass(frozen=True)
class Cost:
    """What requests take, in seconds.

    Attributes:
        wall: a request for the adapter before, by the clock.
        same: the same, of the server's processor time, which other programs on the machine do not add to.
        extra: of which a request for another adapter takes more.
        error: the standard error of that.
    """

    wall: float
    same: float
    extra: float
    error: float


def measure(server: Running, ask: Callable[[str], None], rounds: int) -> Cost:
    """Ask for a, a, b, b in each round: the second and fourth change nothing, the first and third do."""

    def spent() -> float:
        times = server.process.cpu_times()
        return float(times.user + times.system)

    for name in ("a", "b"):
        ask(name)
    wall, same, extra = [], [], []
    for _ in range(rounds):
        for name in ("a", "b"):
            took = []
            for _ in range(2):
                before, began = spent(), time.perf_counter()
                ask(name)
                took.append(spent() - before)
            wall.append(time.perf_counter() - began)
            same.append(took[1])
            extra.append(took[0] - took[1])
    error = statistics.stdev(extra) / len(extra) ** 0.5
    return Cost(statistics.median(wall), statistics.median(same), statistics.fmean(extra), error)
