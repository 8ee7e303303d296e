"""A real language model: JSON that the official client can parse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import pydantic
import pytest
from course_bundles import model_file
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
    folder = tmp_path_factory.mktemp("served")
    convert_gguf(model_file(), folder / "base")
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
