"""What a request may say, and what hostile ones get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.model_server.sampling import Sampling
from fusery.model_server.schemas import ChatBody, TextBody, read_body
from fusery.registry.runtime.errors import Refusal

TEXT = {"model": "a", "prompt": "hello"}
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}

BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"model": 5}, "model"),
    ({"model": "a" * 301}, "model"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": ["a"] * 16, "n": 2}, "n"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"top_k": -2}, "top_k"),
    ({"temperature": 1e300}, "temperature"),
    ({"seed": 10**30}, "seed"),
    ({"top_p": 1.5}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"n": 9}, "n"),
    ({"user": "a" * 1001}, "user"),
    ({"stream_options": []}, "stream_options"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": 21}, "logprobs"),
    ({"adapters": "/etc"}, "adapters"),
    ({"echo": True}, "echo"),
)
NO_JSON = (
    b"",
    b"[]",
    b'{"model": "a", "prompt": "a", "temperature": NaN}',
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"model": "\xff"}',
    b'{"model": "a", "prompt": "\\ud800"}',
    b'{"model": "a", "prompt": "a", "stop": ["\\uDC00\\uD800"]}',
    b'{"model": "a", "prompt": "a", "logit_bias": {"\\ud800": 1}}',
    b'{"model": "a", "prompt": "a", "x": [{"y": "\\ud800"}]}',
    b'{"seed": ' + b"9" * 5000 + b"}",
)


def refusal(data: bytes, kind: type[Any] = TextBody) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_body(data, kind)
    assert caught.value.status == 400
    return caught.value


def text(**fields: Any) -> TextBody:
    return read_body(json.dumps(TEXT | fields).encode(), TextBody)


def chat(**fields: Any) -> ChatBody:
    return read_body(json.dumps(CHAT | fields).encode(), ChatBody)


def test_invalid_field_is_refused_by_its_name() -> None:
    for fields, param in BAD:
        error = refusal(json.dumps(TEXT | fields).encode())
        assert error.document["error"]["param"] == param, fields
        assert len(str(error)) < 600


def test_invalid_json_is_refused() -> None:
    for data in NO_JSON:
        refusal(data)


def test_invalid_chat_fields_are_refused() -> None:
    for content in (5, [{"type": "image_url"}]):
        refusal(json.dumps(CHAT | {"messages": [{"role": "user", "content": content}]}).encode(), ChatBody)
    for messages in ([], "hi", [5], [{}]):
        refusal(json.dumps(CHAT | {"messages": messages}).encode(), ChatBody)
    for fields in ({"logprobs": 5}, {"top_logprobs": 5}):
        refusal(json.dumps(CHAT | fields).encode(), ChatBody)


def test_how_many_probabilities_are_told() -> None:
    for make in (text, chat):
        assert make().alternatives is make(logprobs=False).alternatives is None
        assert make(logprobs=True).alternatives == 0
        assert make(logprobs=True, top_logprobs=4).alternatives == 4
    assert [text(logprobs=number).alternatives for number in (0, 5)] == [0, 5]


def test_a_template_gets_its_own_options_and_no_other_template() -> None:
    options = {"enable_thinking": False, "reasoning_effort": "low"}
    assert chat(chat_template_kwargs=options).chat_template_kwargs == options
    assert chat(reasoning_effort="high").template_options == {"reasoning_effort": "high"}
    assert chat(reasoning_effort="high", chat_template_kwargs=options).template_options == options
    for bad in ({"chat_template": "{{ 1 }}"}, {"tokenize": False}, {"enable_thinking": []}, []):
        refusal(json.dumps(CHAT | {"chat_template_kwargs": bad}).encode(), ChatBody)


def test_all_forms_of_prompts_and_messages() -> None:
    # Null and unknown fields count as left out.
    assert text(stop=None, n=None, temperature=None, metadata={"a": 1}, logprobs=None, tools=[]) == text()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "ab"
    assert read_body(b'{"model": "a", "prompt": "\\ud83d\\ude80"}', TextBody).prompt == ["🚀"]
    assert text(prompt="ab").prompt == ["ab"]
    for several in ([1, 2], [[1, 2]], [[1], "a"]):
        assert text(prompt=several).prompt == ([several] if several == [1, 2] else several)


def test_options_within_what_the_model_has() -> None:
    found = text(top_k=320, top_p=0, seed=-1).sampling(320)
    assert found == Sampling(temperature=0, top_p=0, top_k=0, seed=2**64 - 1)
    assert text(top_k=-1).sampling(320) == text().sampling(320)
    for name in ("max_tokens", "max_completion_tokens"):
        assert min(text(**{name: -1}).length(512), 300_000) == 300_000
    for key in ("320", "-1", "x", "٣", "9" * 20):
        with pytest.raises(Refusal):
            text(logit_bias={key: 1}).sampling(320)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.sampled_from([*TextBody.model_fields, *TextBody.unsupported]), JSON, max_size=4)


@given(FIELDS)
def test_whatever_a_field_is_a_body_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        text(**fields).sampling(320)
    except Refusal as found:
        assert found.status == 400
