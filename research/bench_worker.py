"""One measurement with its own peak of memory: `python -m fusery.research.bench_worker`, JSON from stdin to stdout."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Errors of mlx-lm, mlx and transformers on a folder that is not a model to them
REFUSALS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ImportError)


def measure(
    model: Path, adapters: Sequence[Path], *, prompt_tokens: int, tokens: int
) -> Mapping[str, float | int]:
    """Load a model, put the first of the adapters on, and let it write."""
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    from fusery.registry.runtime.switching import Switchboard

    began = time.perf_counter()
    network, tokenizer = load(str(model), tokenizer_config={"trust_remote_code": False})[:2]
    mx.eval(network.parameters())
    board = Switchboard(network)
    residents = [board.load(folder.name, folder) for folder in adapters]
    board.use(residents[0] if residents else None)
    loaded = time.perf_counter()
    prompt = mx.array(prompt_of(tokenizer, prompt_tokens))
    moments = []
    started = time.perf_counter()
    for _ in generate_step(prompt, network, max_tokens=tokens):
        moments.append(time.perf_counter())
    return {
        "load_seconds": loaded - began,
        "first_token_seconds": moments[0] - started,
        "tokens_per_second": (len(moments) - 1) / (moments[-1] - moments[0]),
        "peak_bytes": peak_bytes(),
        "adapter_bytes": sum(resident.nbytes for resident in residents),
    }


def prompt_of(tokenizer: Any, length: int) -> list[int]:
    """Return so many tokens of plain text, the same for every model with the same vocabulary."""
    text = "The registry records what was trained, on which data, and what came out of it. "
    tokens: list[int] = tokenizer.encode(text) or [0]
    return (tokens * (length // len(tokens) + 1))[:length]


def peak_bytes() -> int:
    """Return the largest resident set this process has had; Linux counts it in KiB, macOS in bytes (getrusage(2))."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    """Do what the document says."""
    # Set before mlx-lm is imported: huggingface_hub reads it at import.
    os.environ["HF_HUB_OFFLINE"] = "1"
    asked = json.load(sys.stdin)
    try:
        reply: Mapping[str, Any] = measure(
            Path(asked["model"]),
            [Path(folder) for folder in asked["adapters"]],
            prompt_tokens=asked["prompt_tokens"],
            tokens=asked["tokens"],
        )
    except REFUSALS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reply = {"error": lines[0][:300]}
    sys.stdout.write(json.dumps(reply) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
