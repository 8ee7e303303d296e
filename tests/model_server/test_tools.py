"""Functions that a model may ask to be called: the model is told of them, and calls are taken out of what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import tiny_models
from chat_templates import CHATML
from mlx_lm.utils import load_tokenizer
from openai_contract import HELLO
from serving_server import Served, served

from fusery.model_server.structured import CallReader, Tool, forced_grammar
from fusery.registry.runtime.errors import Refusal

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


def test_a_form_of_calls_that_is_not_json(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    text = TEMPLATE.replace("<tool_call>\n", "<tool_call>\n<function=")
    (tmp_path / "base" / "chat_template.jinja").write_text(text)
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.has_tool_calling
    with pytest.raises(Refusal):
        forced_grammar(tokenizer, [Tool.model_validate(TOOLS[0])])
