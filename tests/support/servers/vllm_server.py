"""vLLM itself, on a CPU, where `make .venv-vllm/.server` has installed it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from peft_folders import ROOT
from programs import running_program

VLLM = ROOT / ".venv-vllm"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4")
STARTING = 1200
"""Seconds until a server that does not answer is given up."""

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("FUSERY_SOAK"), reason="takes minutes to start: make soak"),
    pytest.mark.skipif(not (VLLM / ".server").exists(), reason="vLLM's build for a CPU is not installed"),
]


@contextmanager
def started(
    command: Sequence[str | Path], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[openai.OpenAI]:
    """Start it by a command, to which port and options are added; yield a client, and end it."""
    words = [*command, "--host", "127.0.0.1", "--port", str(port), *OPTIONS]
    whole = {**SETTINGS, "PATH": f"{VLLM / 'bin'}:{os.environ['PATH']}", **environment}
    url = f"http://127.0.0.1:{port}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="none", timeout=300, max_retries=0) as client,
        running_program(
            words,
            log,
            client.with_options(timeout=10).models.list,
            environment=whole,
            how=signal.SIGTERM,
            patience=STARTING,
        ),
    ):
        yield client
