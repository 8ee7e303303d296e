"""Answers by a schema, calls of functions, and schemas that are too much."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pydantic
import pytest
import tiny_models
from chat_templates import CHATML
from llguidance import LLParserLimits
from mlx_lm.utils import load_tokenizer
from serving_server import Served, served

from fusery.model_server import structured
from fusery.model_server.structured import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    CallReader,
    Grammars,
    Tool,
    forced_grammar,
)
from fusery.registry.runtime.errors import Refusal

HELLO = [{"role": "user", "content": "hi"}]
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
def test_an_unusable_schema_is_refused(grammars: Grammars, what: str) -> None:
    # The last one would take hours without llguidance's limits, which count steps.
    with pytest.raises(Refusal) as caught:
        grammars.of_schema(UNUSABLE[what], "response_format")
    assert (caught.value.status, caught.value.document["error"]["param"]) == (400, "response_format")
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


pytestmark = pytest.mark.timing

TEMPLATE = (
    "{% if tools %}Tools:{% for tool in tools %} {{ tool.function | tojson }}{% endfor %}\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for tool_call in message.tool_calls %}{% set tool_call = tool_call.function %}"
    '<tool_call>\n{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm", "days": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    tiny_models.make_base(folder, dtype="float32", layers=1, hidden=64, intermediate=64)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    document = {"format": 1, "base": {"name": "tiny", "folder": "."}}
    (folder / "serving.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Served]:
    with served(base) as running:
        yield running


def read(base: Path, text: str, size: int) -> tuple[str, list[dict[str, Any]]]:
    reader = CallReader(load_tokenizer(base), [Tool.model_validate(tool) for tool in TOOLS])
    plain, calls = "", []
    for place in range(0, len(text), size):
        more, found = reader.push(text[place : place + size], last=place + size >= len(text))
        plain, calls = plain + more, calls + found
    return plain, calls


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_calls_are_found_however_the_text_is_cut(base: Path, size: int) -> None:
    text, calls = read(base, f"Let me see <tool.\n{CALL}{CALL.replace('Ulm', 'Bonn')} done <", size)
    assert text == "Let me see <tool.\n done <"
    assert [call["function"]["name"] for call in calls] == ["weather", "weather"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Ulm", "Bonn"]
    assert len({call["id"] for call in calls}) == 2


@pytest.mark.parametrize(
    "said",
    [
        "<tool_call>no JSON</tool_call> after",
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": 5}</tool_call>',
        CALL[:-3],
    ],
)
def test_what_is_no_call_stays_text(base: Path, said: str) -> None:
    for size in (1, len(said)):
        assert read(base, said, size) == (said, [])


def test_the_model_is_told_of_tools_and_of_calls_before(server: Served) -> None:
    def prompt(messages: list[Any], **more: Any) -> int:
        reply = server.client().chat.completions.create(model="tiny", messages=messages, max_tokens=1, **more)
        assert reply.usage is not None
        return reply.usage.prompt_tokens

    told = "Tools:" + "".join(" " + json.dumps(tool["function"]) for tool in TOOLS)
    plain = prompt(HELLO)
    assert prompt(HELLO, tools=TOOLS) == plain + len(told)
    assert prompt(HELLO, tools=TOOLS, tool_choice="none") == plain
    called = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [called]}]
    messages += [{"role": "tool", "tool_call_id": "1", "content": "noon"}]
    text = '<|im_start|>assistant\n<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call><|im_end|>\n'
    text += "<|im_start|>tool\nnoon<|im_end|>\n"
    one_token_each = text.replace("<|im_start|>", "s").replace("<|im_end|>", "e")
    assert prompt(messages) == plain + len(one_token_each)
    called["function"] = {"name": "now", "arguments": "{"}
    with pytest.raises(openai.BadRequestError):
        prompt(messages)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"weather", "now"}), ({"type": "function", "function": {"name": "weather"}}, {"weather"})],
)
def test_a_call_that_must_be(server: Served, choice: Any, names: set[str]) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": HELLO, "tools": TOOLS, "tool_choice": choice}
    options |= {"seed": 1, "logit_bias": {"125": 20}}
    (whole,) = server.client().chat.completions.create(**options).choices
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    (call,) = whole.message.tool_calls or []
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert call.function.name in names
    if call.function.name == "weather":
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    stream = server.client().chat.completions.create(**options, stream=True)
    chunks = [part for chunk in stream for part in chunk.choices]
    (streamed,) = [each for part in chunks for each in part.delta.tool_calls or []]
    assert streamed.function is not None
    assert (streamed.index, streamed.function.name) == (0, call.function.name)
    assert streamed.function.arguments == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    assert not any(part.delta.content for part in chunks)


def test_what_is_refused(server: Served) -> None:
    def tools(*functions: Any) -> dict[str, Any]:
        return {"tools": [{"type": "function", "function": function} for function in functions]}

    for body in (
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "code", "function": {"name": "a"}}]},
        tools({"name": "a b"}),
        tools({"name": "now"}, {"name": "now"}),
        tools(*({"name": f"f{number}"} for number in range(129))),
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "later"}}},
        {"tool_choice": "required"},
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        {**tools({"name": "a", "parameters": {"$ref": "http://x"}}), "tool_choice": "required"},
    ):
        with pytest.raises(openai.BadRequestError):
            server.client().chat.completions.create(model="tiny", messages=HELLO, extra_body=body)


def test_a_model_that_knows_no_calls(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(CHATML)
    with served(tmp_path / "base") as running:
        create = running.client().chat.completions.create
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="tiny", messages=HELLO, extra_body={"tools": TOOLS})
        assert caught.value.param == "tools"
        create(model="tiny", messages=HELLO, max_tokens=1, extra_body={"tools": TOOLS, "tool_choice": "none"})


def test_a_forced_call_may_refer_to_shared_parts_of_its_schema(base: Path) -> None:
    """pydantic writes a nested model as `$ref`; the schema of the arguments is a part of the call's."""
    item = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    parameters = {"$defs": {"Item": item}, "properties": {"item": {"$ref": "#/$defs/Item"}}}
    tool = Tool.model_validate({"type": "function", "function": {"name": "add", "parameters": parameters}})
    tokenizer = load_tokenizer(base)
    Grammars(tokenizer, 320).of_lark(forced_grammar(tokenizer, [tool]), "tools")


def test_a_form_of_calls_that_is_not_json(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    text = TEMPLATE.replace("<tool_call>\n", "<tool_call>\n<function=")
    (tmp_path / "base" / "chat_template.jinja").write_text(text)
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.has_tool_calling
    with pytest.raises(Refusal):
        forced_grammar(tokenizer, [Tool.model_validate(TOOLS[0])])
