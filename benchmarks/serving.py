"""Our server of adapters: many clients, many tenants, and what it costs to change the adapter.

Three parts, each with its bounds:

- `crowd`: 64 clients over 8 adapters for a minute, each of which knows the answer it has to get.  No error, no mixed-up
  answer, and memory that grows by at most 1.5 times the adapters' own size over the same crowd on the base alone.
- `tenants`: 20 adapters on one base in at most 1.1 times the memory of one.
- `switching`: requests that take turns between two adapters, against requests for one: under 5 % of a request, and at
  least 20 times cheaper than in `mlx_lm.server`, which loads the model anew.

Run it with `python benchmarks/serving.py [crowd] [tenants] [switching]`; it fails when a bound is missed.
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
from pathlib import Path
from typing import Any

import openai
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

SERVER = "import sys; from pathlib import Path; from fusery.registry.serving.run import main; sys.exit(main(Path(sys.argv.pop(1))))"
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


ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}


def ours(folder: Path) -> Any:
    """Start our server on a folder with `serving.json`."""
    return run(["-c", SERVER, str(folder)], "/health")


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


def crowd(scratch: Path, seconds: float, clients: int = 64, count: int = 8) -> None:
    """Let a crowd ask for eight adapters, and as many for the base alone."""
    import caesar
    import serving_clients as asking

    base = caesar.make_base(scratch / "base", layers=4, intermediate=1024)
    ranks = [64, 27, 128, 96, 32, 80, 48, 112][:count]
    idle = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    adapters = {
        f"caesar_v{number}": caesar.make_adapter(
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
        f"{clients} clients, {count} adapters of rank {min(ranks)} to {max(ranks)}, {seconds:.0f} s:"
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
    import tinymodels

    return tinymodels.make_base(
        scratch / "large", kind="qwen2", layers=24, hidden=896, intermediate=4864, vocab=1024, tied=True
    )


def tenants(scratch: Path, count: int = 20) -> None:
    """Serve one tenant, and then twenty."""
    import tinymodels

    base = large_base(scratch)
    keys = {"q_proj, v_proj": ["self_attn.q_proj", "self_attn.v_proj"], "all linear layers": None}
    for label, chosen in keys.items():
        adapters = {
            f"tenant-{number}": tinymodels.make_adapter(
                scratch / label[:1] / f"tenant-{number}", base, num_layers=16, keys=chosen, seed=number
            )
            for number in range(count)
        }
        peaks = {}
        for number in (1, count):
            some = dict(list(adapters.items())[:number])
            with ours(bundle(scratch / f"{label[:1]}{number}", base, some)) as server:
                client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
                for name in list(some) * (count // number):
                    client.completions.create(model=name, prompt="hello", max_tokens=2)
                peaks[number] = server.peak
        ratio = peaks[count] / peaks[1]
        print(
            f"rank 8 on {label} of 16 blocks, {size(adapters['tenant-0']) / MIB:.1f} MiB each:"
            f" {peaks[1] / MIB:.0f} MiB for one tenant, {peaks[count] / MIB:.0f} MiB for {count}: {ratio:.3f}"
        )
        if chosen is not None:
            check(f"{count} tenants take {ratio:.3f} times the memory of one, at most 1.1", ratio <= 1.1)


def switching(scratch: Path, rounds: int = 12) -> None:
    """Take turns between two adapters and stay with one, in our server and in mlx-lm's."""
    import tinymodels

    base = large_base(scratch)
    adapters = {
        name: tinymodels.make_adapter(scratch / name, base, num_layers=16, seed=number)
        for number, name in enumerate(("a", "b"))
    }
    with ours(bundle(scratch / "both", base, adapters)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        mine = differences(lambda name: answer(client, name), rounds)
    with run(["-m", "mlx_lm", "server", "--model", str(base)], "/health") as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=300)
        body = {name: {"adapters": str(path)} for name, path in adapters.items()}
        theirs = differences(lambda name: answer(client, "default_model", body[name]), max(3, rounds // 3))
    for label, (same, extra, error) in {"ours": mine, "mlx_lm.server": theirs}.items():
        print(
            f"{label}: {same * 1e3:.0f} ms a request, {extra * 1e3:+.1f} ms (standard error {error * 1e3:.1f})"
            " when the adapter changes"
        )
    # What is measured may be nothing: the bound is what it is at most, with 97.5 % probability.
    bound = max(mine[1] + 2 * mine[2], 1e-6)
    check(f"switching costs at most {bound / mine[0]:.2%} of a request, under 5 %", bound < 0.05 * mine[0])
    ratio = theirs[1] / bound
    check(f"mlx_lm.server takes at least {ratio:.0f} times as long to switch, 20 or more", ratio >= 20)


def answer(client: openai.OpenAI, model: str, more: dict[str, str] | None = None) -> None:
    """Ask for eight tokens."""
    client.completions.create(
        model=model,
        prompt="I like boats and soldering.",
        max_tokens=8,
        temperature=0,
        extra_body={**(more or {}), "logit_bias": {"256": -100, "258": -100}},
    )


def differences(ask: Callable[[str], None], rounds: int) -> tuple[float, float, float]:
    """Return the seconds of a request for the adapter before, what one for another takes more, and its standard error.

    Each round asks a, a, b, b: the second and fourth change nothing, the first and third do.
    """
    for name in ("a", "b"):
        ask(name)
    same, extra = [], []
    for _ in range(rounds):
        for name in ("a", "b"):
            times = []
            for _ in range(2):
                began = time.perf_counter()
                ask(name)
                times.append(time.perf_counter() - began)
            same.append(times[1])
            extra.append(times[0] - times[1])
    return (
        statistics.median(same),
        statistics.fmean(extra),
        statistics.stdev(extra) / len(extra) ** 0.5,
    )


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="crowd, tenants, switching; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the crowd")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "crowd": lambda scratch: crowd(scratch, options.seconds),
        "tenants": tenants,
        "switching": switching,
    }
    for name in options.parts or parts:
        print(f"-- {name}")
        with tempfile.TemporaryDirectory(prefix="fusery-serving-") as folder:
            parts[name](Path(folder))
    if FAILED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
