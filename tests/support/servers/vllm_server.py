"""vLLM itself, on a CPU, where `make .venv-vllm/.server` has installed it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from peft_folders import ROOT

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
    whole = {**os.environ, **SETTINGS, "PATH": f"{VLLM / 'bin'}:{os.environ['PATH']}", **environment}
    with log.open("w") as file:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port), *OPTIONS],
            env=whole,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300, max_retries=0
        ) as client:
            _await(server, client, log)
            yield client
    finally:
        server.terminate()
        server.wait(timeout=60)


def _await(server: subprocess.Popen[bytes], client: openai.OpenAI, log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        try:
            client.with_options(timeout=10).models.list()
        except openai.APIConnectionError:
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
        else:
            return
    pytest.fail(f"vLLM did not answer within {STARTING} s")
