"""vLLM itself, on a CPU, started by a bundle's `serve.sh`, or up while a sync loads adapters; it takes minutes to start (make soak)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import course_answers
import llama_server
import numpy as np
import openai
import pytest
from bundle_cases import course_bundles, question_tokens
from consumers import mlx_logits
from course_answers import NAMES
from installation import Installation
from page_server import post_json
from peft_folders import ROOT
from programs import free_port, running_program

VLLM = ROOT / ".venv-vllm"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4")
STARTING = 1200  # seconds until a server that does not answer is given up

pytestmark = [
    pytest.mark.timing,
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


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = course_bundles(tmp_path_factory.mktemp("vllm"))
    made.run("materialize", *NAMES[1:], "served", "--target", "vllm")
    return made


@pytest.fixture(scope="module")
def client(shipped: Installation) -> Iterator[openai.OpenAI]:
    script = shipped.folder / "served" / "serve.sh"
    environment = {"BASE_MODEL": str(shipped.folder / "adapters" / "base")}
    with started(["sh", script], free_port(), shipped.folder / "vllm.log", environment) as found:
        yield found


def test_a_plain_client_gets_what_it_names(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == set(NAMES)
    for name, expected in course_answers.answers().items():
        assert llama_server.chats(client, name, course_answers.questions()) == expected
    with pytest.raises(openai.NotFoundError):
        llama_server.chat(client, "course_rec_v3_20270101", "Hello")


def test_the_log_probabilities_are_those_of_the_library_that_trained_it(
    shipped: Installation, client: openai.OpenAI
) -> None:
    base = shipped.folder / "adapters" / "base"
    tokens = question_tokens(base)
    for name, adapter in zip(NAMES, (None, shipped.first, shipped.second), strict=True):
        ours = mlx_logits(base, adapter, tokens).astype(np.float64)
        ours -= np.logaddexp.reduce(ours, axis=-1, keepdims=True)
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


BASE, V1, V2 = NAMES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return course_bundles(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def live_client(made: Installation) -> Iterator[openai.OpenAI]:
    base = made.folder / "adapters" / "base"
    words = [VLLM / "bin" / "vllm", "serve", base, "--served-model-name", BASE, "--enable-lora"]
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_PLUGINS": "fusery",
        "FUSERY_REGISTRY": str(made.folder / "home"),
        "FUSERY_USER": "vllm",
        "FUSERY_SERVED_FILES": str(made.folder / "served-files"),
    }
    log = made.folder / "vllm.log"
    with started([*words, "--max-lora-rank", "64"], free_port(), log, environment) as found:
        yield found


def models(client: openai.OpenAI) -> set[str]:
    return {model.id for model in client.models.list()}


def answers(client: openai.OpenAI, name: str) -> list[str]:
    return llama_server.chats(client, name, course_answers.questions())


def test_a_sync_loads_what_answers_as_it_should(made: Installation, live_client: openai.OpenAI) -> None:
    client = live_client
    to = f"vllm={str(client.base_url).removesuffix('/v1/')}"
    found = made.json("deploy", "sync", V1, "--to", to)
    assert [(step["act"], step["done"]) for step in found["steps"]] == [("load", True)]
    assert models(client) == {BASE, V1}
    expected = course_answers.answers()
    assert answers(client, V1) == expected[V1]
    assert answers(client, BASE) == expected[BASE]
    made.run("deploy", "sync", V1, "--to", to, "--check")
    url = f"{client.base_url}"
    assert post_json(f"{url}unload_lora_adapter", "", {"lora_name": V1}).status == 200
    made.run("deploy", "sync", V1, "--to", to, "--check", code=1)
    made.run("deploy", "sync", V1, "--to", to)
    assert answers(client, V1) == expected[V1]
    made.run("deploy", "sync", "--none", "--to", to)
    assert models(client) == {BASE}
    assert made.json("deploy", "list") == []


def test_what_it_does_not_know_it_asks_the_registry_for(
    made: Installation, live_client: openai.OpenAI
) -> None:
    client = live_client
    assert answers(client, V2) == course_answers.answers()[V2]
    assert V2 in models(client)
    [row] = made.json("deploy", "list")
    port = client.base_url.port
    assert (row["name"], row["place"], row["via"]) == (V2, f"vllm@{socket.gethostname()}:{port}", "vllm")
    with pytest.raises(openai.NotFoundError):
        llama_server.chat(client, "course_rec_v9_20270101", "Hello")
    made.run("alias", "set", V2, "prod")
    with pytest.raises(openai.BadRequestError, match="is an alias"):
        llama_server.chat(client, "course_rec#prod", "Hello")
    made.run("yank", V1, "--reason", "bad data")
    with pytest.raises(openai.BadRequestError, match="was withdrawn"):
        llama_server.chat(client, V1, "Hello")
    made.run("yank", V1, "--undo", "--reason", "good data")
    assert llama_server.chat(client, f"course_rec@{V1.split('_v')[1][0]}", course_answers.questions()[0])
    # Files of the machine that are damaged are not handed over.
    shutil.rmtree(made.folder / "served-files")
    assert answers(client, V1) == course_answers.answers()[V1]
