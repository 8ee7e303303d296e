"""`serving.py crowd` and `tenants`: many clients, and many adapters, in the memory of few."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import openai
import serving_clients as asking
import shift_cipher_adapters
import tiny_models
from serving_servers import MIB, bundle, check, large_base, ours, size


def crowd(scratch: Path, seconds: float, clients: int = 64) -> None:
    """Let a crowd ask for eight adapters, and as many for the base alone."""
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


def tenants(scratch: Path, most: int = 20) -> None:
    """Serve one tenant, and then twenty."""
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
