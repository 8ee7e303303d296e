"""Adapters that come to our own server while it runs answer as those that it was started with: a real model, held-out questions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import course_answers
import llama_server
import openai
import pytest
from bundle_cases import course_bundles
from course_answers import NAMES
from installation import PROGRAM, Installation

pytestmark = [
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("FUSERY_SOAK"), reason="a minute and more for sixty answers: make soak"
    ),
]

BASE, V1, V2 = NAMES
QUESTIONS = course_answers.questions()[:10]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    found = course_bundles(tmp_path_factory.mktemp("live"))
    (found.folder / "shelf").mkdir()
    return found


@contextmanager
def serving(made: Installation, *words: str | Path) -> Iterator[openai.OpenAI]:
    """Serve until the block ends."""
    process = subprocess.Popen(
        [str(PROGRAM), "serve", *map(str, words), "--port", "0", "-q"],
        cwd=made.folder,
        env={**made.environment, "MLX_DISABLE_COMPILE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=60)


def answers(client: openai.OpenAI) -> dict[str, list[str]]:
    """Return the beginnings of all answers, asked at once: the server reads its weights once for those of one adapter."""
    with ThreadPoolExecutor(len(NAMES) * len(QUESTIONS)) as pool:
        asked = {
            name: [pool.submit(llama_server.chat, client, name, question, 8) for question in QUESTIONS]
            for name in NAMES
        }
        return {name: [each.result() for each in said] for name, said in asked.items()}


def test_what_was_synced_answers_as_what_was_there(made: Installation) -> None:
    with serving(made, V1, V2) as client:
        expected = answers(client)
    for one, other in ((BASE, V1), (V1, V2), (BASE, V2)):
        assert expected[one] != expected[other], "the questions do not tell the models apart"
    with serving(made, V1, "--adapters-from", made.folder / "shelf") as client:
        to = ("--to", f"fusery={client.base_url}", "--folder", made.folder / "shelf")
        with pytest.raises(openai.NotFoundError):
            llama_server.chat(client, V2, QUESTIONS[0])
        found = made.json("deploy", "sync", V1, V2, *to)
        assert [(step["act"], step["adapter"]) for step in found["steps"]] == [("keep", V1), ("load", V2)]
        assert answers(client) == expected
        made.run("deploy", "sync", V1, *to)
        with pytest.raises(openai.NotFoundError):
            llama_server.chat(client, V2, QUESTIONS[0])
        assert json.loads(made.run("deploy", "list", "--json")) == []
