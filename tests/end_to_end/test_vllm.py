"""vLLM itself, on a CPU, started by a bundle's `serve.sh`: the answers and the log probabilities of the trainer's own library.

Part of `make soak`, which installs it where it installs (requirements/vllm.txt); it takes minutes to start.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import course_answers
import llama_server
import numpy as np
import openai
import pytest
from consumers import mlx_logits
from course_answers import NAMES
from course_bundles import course_bundles, question_tokens
from installation import Installation
from peft_folders import ROOT
from ports import free_port

VLLM = ROOT / ".venv-vllm"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
STARTING = 1200
"""Seconds until a server that does not answer is given up."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("FUSERY_SOAK"), reason="takes minutes to start: make soak"),
    pytest.mark.skipif(not (VLLM / ".server").exists(), reason="vLLM's build for a CPU is not installed"),
]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = course_bundles(tmp_path_factory.mktemp("vllm"))
    made.run("materialize", *NAMES[1:], "served", "--target", "vllm")
    return made


@pytest.fixture(scope="module")
def client(shipped: Installation) -> Iterator[openai.OpenAI]:
    port, words = free_port(), ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
    environment = {
        **os.environ,
        **SETTINGS,
        "PATH": f"{VLLM / 'bin'}:{os.environ['PATH']}",
        "BASE_MODEL": str(shipped.folder / "adapters" / "base"),
    }
    log = shipped.folder / "vllm.log"
    with log.open("w") as file:
        script = shipped.folder / "served" / "serve.sh"
        server = subprocess.Popen(
            ["sh", script, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", *words],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300) as found:
            _await(server, found, log)
            yield found
    finally:
        server.terminate()
        server.wait(timeout=60)


def _await(server: subprocess.Popen[bytes], client: openai.OpenAI, log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        try:
            client.with_options(max_retries=0, timeout=10).models.list()
        except openai.APIConnectionError:
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
        else:
            return
    pytest.fail(f"vLLM did not answer within {STARTING} s")


def test_a_plain_client_gets_what_it_names(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == set(NAMES)
    for name, expected in course_answers.answers().items():
        assert llama_server.chats(client, name, course_answers.questions()) == expected
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        llama_server.chat(client, "course_rec_v3_20270101", "Hello")


def test_the_log_probabilities_are_those_of_the_library_that_trained_it(
    shipped: Installation, client: openai.OpenAI
) -> None:
    base = shipped.folder / "adapters" / "base"
    tokens = question_tokens(base)
    for name, adapter in zip(NAMES, (None, shipped.first, shipped.second), strict=True):
        ours = mlx_logits(base, adapter, tokens).astype(np.float64)
        ours -= np.log(np.exp(ours - ours.max(-1, keepdims=True)).sum(-1, keepdims=True)) + ours.max(
            -1, keepdims=True
        )
        reply = client.completions.create(
            model=name,
            prompt=tokens[0].tolist(),
            max_tokens=1,
            temperature=0,
            extra_body={"prompt_logprobs": 0},
        )
        theirs = reply.choices[0].model_extra["prompt_logprobs"][1:]  # type: ignore[index]
        for place, (token, found) in enumerate(zip(tokens[0][1:], theirs, strict=True)):
            assert found[str(token)]["logprob"] == pytest.approx(ours[place, token], abs=2e-3), (name, place)
