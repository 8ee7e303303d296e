"""vLLM itself, on a CPU, started by a bundle's `serve.sh`: the answers and the log probabilities of the trainer's own library.

Part of `make soak`, which installs it where it installs (requirements/vllm.txt); it takes minutes to start.
"""

from __future__ import annotations

from collections.abc import Iterator

import course_answers
import llama_server
import numpy as np
import openai
import pytest
import vllm_server
from bundle_cases import course_bundles, question_tokens
from consumers import mlx_logits
from course_answers import NAMES
from installation import Installation
from programs import free_port

pytestmark = [pytest.mark.timing, *vllm_server.MARKS]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = course_bundles(tmp_path_factory.mktemp("vllm"))
    made.run("materialize", *NAMES[1:], "served", "--target", "vllm")
    return made


@pytest.fixture(scope="module")
def client(shipped: Installation) -> Iterator[openai.OpenAI]:
    script = shipped.folder / "served" / "serve.sh"
    environment = {"BASE_MODEL": str(shipped.folder / "adapters" / "base")}
    with vllm_server.started(["sh", script], free_port(), shipped.folder / "vllm.log", environment) as found:
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
