from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.bundles.serving.checks import Refusal, check_request, known_fields

VOCABULARY = 320
KNOWN = known_fields(context=2048, vocabulary=VOCABULARY)

GOOD: list[tuple[str, Any, Any]] = [
    ("prompt", "hello", "hello"),
    ("messages", [{"role": "user", "content": "hi"}], [{"role": "user", "content": "hi"}]),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        [{"role": "user", "content": "ab"}],
    ),
    (
        "messages",
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "refusal": None, "index": 3}],
        [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}],
    ),
    (
        "messages",
        [{"role": "tool", "content": "x", "tool_call_id": "1"}],
        [{"role": "tool", "content": "x", "tool_call_id": "1"}],
    ),
    ("tools", [{"type": "function"}], [{"type": "function"}]),
    ("stream", True, True),
    ("stream_options", {}, {"include_usage": False}),
    ("stream_options", {"include_usage": True, "other": 1}, {"include_usage": True}),
    ("stop", "a", ["a"]),
    ("stop", ["a", "b"], ["a", "b"]),
    ("max_tokens", 1, 1),
    ("max_completion_tokens", 10**9, 10**9),
    ("temperature", 0, 0.0),
    ("temperature", 0.7, 0.7),
    ("top_p", 1, 1.0),
    ("top_k", VOCABULARY - 1, VOCABULARY - 1),
    ("logit_bias", {"0": -100, "319": 100}, {"0": -100.0, "319": 100.0}),
    ("xtc_threshold", 0.5, 0.5),
    ("seed", 2**63 - 1, 2**63 - 1),
    ("n", 1, 1),
    ("chat_template_kwargs", {"enable_thinking": False}, {"enable_thinking": False}),
]

BAD: list[tuple[str, Any]] = [
    ("prompt", ""),
    ("prompt", ["a", "b"]),
    ("prompt", [1, 2]),
    ("prompt", 5),
    ("messages", []),
    ("messages", "x"),
    ("messages", [1]),
    ("messages", [{}]),
    ("messages", [{"role": {}, "content": "x"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1/"}]}]),
    ("messages", [{"role": "user", "content": [{"type": "image", "text": "x"}]}]),
    ("messages", [{"role": "user", "content": ["x"]}]),
    ("messages", [{"role": "user", "content": [{"type": "text", "text": None}]}]),
    ("messages", [{"role": "assistant", "tool_calls": "x"}]),
    ("tools", {}),
    ("tools", [1]),
    ("tools", [{}] * 129),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", "x"),
    ("stream_options", {"include_usage": "x"}),
    ("stop", 5),
    ("stop", [["a"]]),
    ("stop", [""]),
    ("stop", ["a"] * 17),
    ("stop", "a" * 257),
    ("max_tokens", 0),
    ("max_tokens", True),
    ("max_tokens", 1.5),
    ("max_tokens", 10**30),
    ("temperature", -0.1),
    ("temperature", "1"),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 10**400),
    ("top_p", 1.1),
    ("top_k", VOCABULARY),
    ("top_k", -1),
    ("min_p", 2),
    ("repetition_penalty", -1),
    ("repetition_context_size", 10**30),
    ("presence_penalty", math.inf),
    ("presence_context_size", -1),
    ("frequency_penalty", "0"),
    ("frequency_context_size", 1.0),
    ("xtc_probability", 2),
    ("xtc_threshold", 0.9),
    ("logit_bias", {"320": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"\u0661": 1}),
    ("logit_bias", {"1" * 5000: 1}),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"1": math.nan}),
    ("logit_bias", {str(n): 1 for n in range(1025)}),
    ("logit_bias", []),
    ("logprobs", 1),
    ("top_logprobs", 12),
    ("seed", -1),
    ("seed", 2**63),
    ("n", 2),
    ("chat_template_kwargs", {"chat_template": "{{ 7 * 7 }}"}),
    ("chat_template_kwargs", {"enable_thinking": [1]}),
    ("chat_template_kwargs", [1]),
]


@pytest.mark.parametrize(("field", "value", "passed"), GOOD)
def test_good_values_are_passed_on(field: str, value: Any, passed: Any) -> None:
    found = check_request({field: value}, KNOWN)
    assert found == {field: passed}
    assert type(found[field]) is type(passed)


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda part: str(part)[:40])
def test_bad_values_are_refused(field: str, value: Any) -> None:
    with pytest.raises(Refusal, match=f"^{field} ") as caught:
        check_request({field: value}, KNOWN)
    assert caught.value.status == 400
    assert caught.value.document["error"]["param"] == field


def test_every_field_is_tried() -> None:
    assert {field for field, *_ in [*GOOD, *BAD]} == set(KNOWN)


def test_unknown_fields_are_left_out_and_null_is_nothing() -> None:
    body = {"prompt": "a", "temperature": None, "user": "ann", "role_mapping": {}, "num_draft_tokens": 9}
    assert check_request(body, KNOWN) == {"prompt": "a"}


def test_where_the_vocabulary_is_unknown_nothing_that_needs_it_is_allowed() -> None:
    known = known_fields(context=2048, vocabulary=1)
    assert check_request({"top_k": 0, "top_logprobs": 0}, known) == {"top_k": 0, "top_logprobs": 0}
    for field, value in (("top_k", 1), ("top_logprobs", 1), ("logit_bias", {"1": 1})):
        with pytest.raises(Refusal):
            check_request({field: value}, known)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), json_values, max_size=4))
def test_any_json_is_refused_or_passed_on_as_what_it_is_checked_to_be(body: dict[str, Any]) -> None:
    try:
        passed = check_request(body, KNOWN)
    except Refusal:
        return
    assert check_request(passed, KNOWN) == passed
    json.dumps(passed, allow_nan=False)
