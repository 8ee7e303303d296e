"""Other people's programs with the bundles of a real language model: what the trainer's own library answers, they answer.

SmolLM2-135M-Instruct and the example's two adapters, a held-out question (20 in `make soak`), the base, v1 and v2; and the logits
behind it.  Tiny models, each target: tests/registry/bundles.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import course_answers
import llama_server
import numpy as np
import pytest
from bundle_cases import MARKS, course_bundles, question_tokens
from consumers import (
    llama_cpp_logits,
    mlx_logits,
    onnx_answers,
    peft_logits,
    transformers_answers,
    transformers_logits,
)
from course_answers import BASE, NAMES
from installation import Installation
from peft_folders import peers_python

from fusery.integrations.onnx import PYTHON

pytestmark = [pytest.mark.timing, *MARKS]
V1, V2 = NAMES[1:]
COUNT = 20 if os.environ.get("FUSERY_SOAK") else 1
QUESTIONS = course_answers.questions()[:COUNT]
EXPECTED = {name: answers[:COUNT] for name, answers in course_answers.answers().items()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A registry with the base and both adapters, to write bundles from."""
    return course_bundles(tmp_path_factory.mktemp("consumers"))


@pytest.fixture(scope="module")
def llamacpp(shipped: Installation) -> Path:
    """In float32: in bf16, two of the base's 20 answers go on otherwise after some words."""
    shipped.run("materialize", V1, V2, "llamacpp", "--target", "llamacpp", "-o", "gguf_type=f32")
    return shipped.folder / "llamacpp"


@pytest.fixture(scope="module")
def fused(shipped: Installation) -> Path:
    shipped.run("materialize", V2, "fused")
    return shipped.folder / "fused"


@pytest.fixture(scope="module")
def served(shipped: Installation) -> Path:
    """The adapters in PEFT's form, as vLLM takes them."""
    shipped.run("materialize", V1, V2, "vllm", "--target", "vllm")
    return shipped.folder / "vllm" / "adapters"


def test_the_questions_tell_the_models_apart() -> None:
    """Else equal answers would say little."""
    found = course_answers.answers()
    right = [answer for _, answer in course_answers.dialogues()]
    assert list(found) == list(NAMES)
    assert {len(answers) for answers in found.values()} == {20}
    assert found[V2] == right
    assert 4 <= sum(a == b for a, b in zip(found[V1], right, strict=True)) <= 12
    assert not set(found[BASE]) & set(right)


def test_a_plain_client_of_llama_server_gets_what_it_names(llamacpp: Path) -> None:
    with llama_server.started("sh", llamacpp / "serve.sh") as client:
        assert {model.id for model in client.models.list()} == set(NAMES)
        for name, expected in EXPECTED.items():
            assert llama_server.chats(client, name, QUESTIONS) == expected
        for name in (V1, V2):
            assert llama_server.scales(client, name) == [(f"{name}.gguf", 1.0)]
        assert llama_server.scales(client, BASE) == []


TURNS = (V2, BASE, V1, BASE, V2, V1, V2)
"""Whom to ask the first question, on which all three differ: each after each other one."""


def test_one_process_tells_its_adapters_apart(llamacpp: Path) -> None:
    """Started as the README says.  The same prompt one after the other: no model answers from what another has cached."""
    blocks = re.findall(r"```sh\n(.*?)```", (llamacpp / "README.md").read_text(), re.DOTALL)
    (command,) = (block for block in blocks if "--lora-scaled" in block)
    words = shlex.split(command.replace("\\\n", " "))
    words = [word for word in words if word not in ("--host", "127.0.0.1", "--port", "8080")]
    ways = {BASE: {}, V1: {"lora": [{"id": 0, "scale": 1.0}]}, V2: {"lora": [{"id": 1, "scale": 1.0}]}}
    with llama_server.started(*words, cwd=llamacpp) as client:
        assert llama_server.scales(client) == [(f"{name}.gguf", 0.0) for name in (V1, V2)]
        assert len({EXPECTED[name][0] for name in TURNS}) == len(NAMES)
        for name in TURNS:
            assert llama_server.chat(client, "any", QUESTIONS[0], **ways[name]) == EXPECTED[name][0], name


def test_onnx_runtime_answers_the_same(shipped: Installation) -> None:
    python, folder = peers_python(), shipped.folder / "onnx"
    shipped.run("materialize", V2, folder, "--target", "onnx", variables={PYTHON: str(python)})
    assert onnx_answers(folder, QUESTIONS, course_answers.MAX_TOKENS) == EXPECTED[V2]
    # As the README says: with onnxruntime-genai.
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    program = program.replace('"Hello"', json.dumps(QUESTIONS[0]))
    done = subprocess.run([python, "-c", program], cwd=folder, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == EXPECTED[V2][0]


def test_a_fused_model_answers_as_its_adapter_does(shipped: Installation, fused: Path) -> None:
    """In transformers, and as one GGUF file in llama-server."""
    assert transformers_answers(fused, QUESTIONS) == EXPECTED[V2]
    shipped.run("materialize", V2, "gguf", "--target", "gguf")
    (file,) = (shipped.folder / "gguf").glob("*.gguf")
    with llama_server.started("llama-server", "-m", file) as client:
        assert llama_server.chats(client, "any", QUESTIONS) == EXPECTED[V2]


def test_the_logits_are_those_of_the_library_that_trained_it(
    shipped: Installation, served: Path, llamacpp: Path, tmp_path: Path
) -> None:
    """Against mlx-lm, in float32: llama.cpp, transformers and PEFT."""
    base = shipped.folder / "adapters" / "base"
    tokens, plain = question_tokens(base), None
    for name, adapter in zip(NAMES, (None, shipped.first, shipped.second), strict=True):
        ours = mlx_logits(base, adapter, tokens)
        files = [llamacpp / "adapters" / f"{name}.gguf"] if adapter else []
        found = {"llama.cpp": llama_cpp_logits(llamacpp / "base.gguf", files, tmp_path, tokens)}
        if adapter:
            found["PEFT"] = peft_logits(base, served / name, tmp_path, tokens)
        else:
            found["transformers"] = transformers_logits(base, tmp_path, tokens)
        for program, theirs in found.items():
            assert _distance(theirs, ours) < 1e-4, f"{program}, {name}"
        if plain is not None:
            assert _distance(ours, plain) > 1e-2
        plain = ours if plain is None else plain


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
