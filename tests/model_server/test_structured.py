"""Answers by a schema: whatever the model would say, it is JSON that matches; and schemas that are too much."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pydantic
import pytest
import tiny_models
from llguidance import LLParserLimits
from mlx_lm.utils import load_tokenizer
from openai_contract import HELLO
from serving_server import Served, served

from fusery.model_server import structured
from fusery.model_server.structured import MAX_BYTES, MAX_DEPTH, MAX_NODES, Grammars
from fusery.registry.runtime.errors import Refusal

pytestmark = pytest.mark.timing


class Course(pydantic.BaseModel):
    title: str = pydantic.Field(max_length=12)
    hours: int = pydantic.Field(ge=1, le=500)
    level: str = pydantic.Field(pattern="^(first|second)$")
    evening: bool


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["a", "b", None]},
        "numbers": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 4},
    },
    "required": ["name", "kind", "numbers"],
    "additionalProperties": False,
}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    return tiny_models.make_base(folder, dtype="float32", layers=1, hidden=64, intermediate=64)


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    document = {"format": 1, "base": {"name": "tiny", "folder": str(base)}}
    (folder / "serving.json").write_text(json.dumps(document))
    with served(folder) as running:
        yield running


@pytest.fixture(scope="module")
def grammars(base: Path) -> Grammars:
    return Grammars(load_tokenizer(base), 320)


def test_any_model_says_what_matches(server: Served) -> None:
    def one(seed: int) -> str:
        reply = server.client().chat.completions.create(
            messages=HELLO, model="tiny", response_format=form(SCHEMA), seed=seed, temperature=1.5
        )
        assert reply.choices[0].finish_reason == "stop"
        return reply.choices[0].message.content or ""

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(one, range(12)))
    for text in said:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len({*said}) == 12


def test_a_stream_and_several_answers(server: Served) -> None:
    said = ["", ""]
    options: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 4}
    for chunk in server.client().chat.completions.create(
        **options, response_format=form(SCHEMA), n=2, stream=True
    ):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    for text in said:
        jsonschema.validate(json.loads(text), SCHEMA)
    reply = server.client().chat.completions.parse(**options, response_format=Course)
    assert isinstance(reply.choices[0].message.parsed, Course)


def test_an_object_of_any_form(server: Served) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": HELLO, "response_format": {"type": "json_object"}}
    # Of what a random model would say, an object is as good as never.
    reply = server.client().chat.completions.create(**options, max_tokens=300, seed=1, logit_bias={"125": 20})
    assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)


def test_an_answer_beside_it_is_what_it_is_alone(server: Served) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 60, "temperature": 0}
    create = server.client().chat.completions.create
    alone = create(**options).choices[0].message.content
    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(create, **options, response_format=form(SCHEMA)) for _ in range(3)]
        assert pool.submit(create, **options).result().choices[0].message.content == alone
    assert all(each.result().choices[0].message.content != alone for each in beside)


def test_a_grammar_that_takes_too_much_ends_its_own_answer(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = LLParserLimits(step_max_items=60)
    many = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(60)}}
    late = {"type": "object", "properties": {"a": {"type": "integer"}, "b": many}, "required": ["a", "b"]}
    late["additionalProperties"] = False
    create = server.client().chat.completions.create
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(create, model="tiny", messages=HELLO, max_tokens=300, temperature=0)
        with monkeypatch.context() as patched, pytest.raises(openai.InternalServerError):
            patched.setattr(structured, "_limits", lambda: narrow)
            create(model="tiny", messages=HELLO, response_format=form(late), logit_bias={"44": 50})
        assert other.result().choices[0].finish_reason in ("stop", "length")
    reply = create(model="tiny", messages=HELLO, response_format=form(late), max_tokens=2)
    assert reply.choices[0].finish_reason == "length"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


BRANCHES = [{"anyOf": [{"properties": {f"k{i}{j}": {}}} for j in range(6)]} for i in range(8)]
UNUSABLE: dict[str, dict[str, Any]] = {
    "too deep": nested(MAX_DEPTH),
    "too many parts": {"anyOf": [{"const": n} for n in range(MAX_NODES)]},
    "too long": {"enum": ["a" * MAX_BYTES]},
    "another's": {"$ref": "http://127.0.0.1:1/schema.json"},
    "a file's": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "a dialect of another's": {"$schema": "http://127.0.0.1:1/x.json"},
    "endless": {"$ref": "#"},
    "nothing matches": {"type": "string", "minLength": 5, "maxLength": 2},
    "no type": {"type": "text"},
    "a multiplication": {"allOf": BRANCHES},
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_cannot_be_used_is_refused_soon(grammars: Grammars, what: str) -> None:
    began = time.process_time()
    with pytest.raises(Refusal) as caught:
        grammars.of_schema(UNUSABLE[what], "response_format")
    assert (caught.value.status, caught.value.document["error"]["param"]) == (400, "response_format")
    assert time.process_time() - began < 5
    assert "\n" not in str(caught.value)


def test_without_llguidance_a_sentence_says_what_to_install(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(Refusal) as caught:
        Grammars(load_tokenizer(base), 320).of_schema(SCHEMA, "response_format")
    assert caught.value.document["error"]["code"] == "unsupported_value"


def test_invalid_forms_are_refused(server: Served) -> None:
    create = server.client().chat.completions.create
    named: dict[str, Any] = {"name": "a b", "schema": {}}
    for wrong in (
        "json",
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": named},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": []}},
        {"type": "json_object", "json_schema": {"name": "a"}},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="tiny", messages=HELLO, response_format=wrong)
        assert (caught.value.param or "").startswith("response_format")
