"""Chat templates: the same text and tokens as transformers and mlx-lm make, and hostile ones end in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import chat_templates
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.registry.runtime.templates.chat import ChatTemplates, bound, encoded
from fusery.registry.runtime.templates.process import Limits, TemplateError, TemplateRaised
from fusery.research.models import load_tokenizer

pytestmark = pytest.mark.timing

HELLO = [{"role": "user", "content": "hello"}]
TOWN = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
WEATHER = {"name": "weather", "description": "Say the <weather> für a town.", "parameters": TOWN}
TOOL = {"type": "function", "function": WEATHER}

ODD = ["", " a \n", "<think>\nx\n</think>\n\ny", "{{ 7 * 7 }}", "é\U0001f600", "<|im_end|>"]
text = st.text(max_size=40) | st.sampled_from(ODD)
arguments = st.dictionaries(text, st.none() | st.integers() | text)
call = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": text, "arguments": arguments})})
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": text},
    optional={
        "name": st.none() | text,
        "reasoning_content": st.none() | text,
        "reasoning": text,
        "thinking": text,
        "tool_calls": st.lists(call, max_size=2),
    },
)
options = st.fixed_dictionaries(
    {"add_generation_prompt": st.booleans()},
    optional={
        "enable_thinking": st.booleans(),
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "tools": st.none() | st.lists(st.just(TOOL), min_size=1, max_size=2),
        "documents": st.none() | st.just([{"title": "a", "text": "b"}]),
        "bos_token": st.just("<other>"),
    },
)


@pytest.fixture(scope="module")
def chats() -> Iterator[ChatTemplates]:
    with closing(ChatTemplates()) as made:
        yield made


@pytest.fixture(scope="module")
def pair(tiny_base: Path, chats: ChatTemplates) -> tuple[Any, Any]:
    ours, theirs = load_tokenizer(tiny_base), load_tokenizer(tiny_base)
    for tokenizer in (ours, theirs):
        tokenizer._tokenizer.bos_token = "<|im_start|>"
    assert chats.bind(ours)
    return ours, theirs


def outcome(tokenizer: Any, messages: Any, given: dict[str, Any]) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, **given)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


@pytest.mark.parametrize("family", chat_templates.FAMILIES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(message, min_size=1, max_size=5), given_options=options)
def test_texts_and_tokens_are_those_of_mlx_lm(
    pair: tuple[Any, Any], family: str, messages: list[dict[str, Any]], given_options: dict[str, Any]
) -> None:
    ours, theirs = pair
    for tokenizer in pair:
        tokenizer._tokenizer.chat_template = chat_templates.FAMILIES[family]
    for tokenize in (False, True):
        found = outcome(ours, messages, {**given_options, "tokenize": tokenize})
        expected = outcome(theirs, messages, {**given_options, "tokenize": tokenize})
        if isinstance(expected, Exception):
            assert isinstance(found, TemplateRaised), (found, expected)
        else:
            assert found == expected


def test_each_family_takes_an_ordinary_chat(pair: tuple[Any, Any]) -> None:
    """Else the test above could compare refusals alone."""
    for family, source in chat_templates.FAMILIES.items():
        pair[0]._tokenizer.chat_template = source
        made = pair[0].apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
        assert "hello" in made, family
        assert pair[0].apply_chat_template(HELLO, add_generation_prompt=True) == encoded(pair[0], made)


def test_of_several_templates_the_one_for_tools_is_chosen(pair: tuple[Any, Any]) -> None:
    named = {
        "default": "plain {{ messages[0].content }}",
        "tool_use": "tools {{ tools | length }}",
        "rag": "{% if %}",
    }
    for tokenizer in pair:
        tokenizer._tokenizer.chat_template = named
    for tools, expected in ((None, "plain hello"), ([TOOL, TOOL], "tools 2")):
        made = [each.apply_chat_template(HELLO, tools=tools, tokenize=False) for each in pair]
        assert made == [expected] * 2
    del named["default"]
    with pytest.raises(ValueError):
        pair[0].apply_chat_template(HELLO)


@pytest.mark.parametrize("name", chat_templates.HOSTILE)
def test_hostile_templates_end_in_a_sentence(name: str, limited: dict[float, ChatTemplates]) -> None:
    source, said = chat_templates.HOSTILE[name]
    # A busy machine takes longer to fill the memory, and to fail, than one without end may.
    chats = limited[0.5 if "needed more than" in said else 60]
    with pytest.raises(TemplateError) as caught:
        chats.render(source, {"messages": HELLO})
    sentence = str(caught.value)
    assert said in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1100
    assert chats.render(chat_templates.CHATML, {"messages": HELLO}).startswith("<|im_start|>user\nhello")


@pytest.fixture(scope="module")
def limited() -> Iterator[dict[float, ChatTemplates]]:
    """By how many seconds they have."""
    limits = {seconds: Limits(seconds, memory=256 << 20, characters=1_000_000) for seconds in (0.5, 60)}
    made = {seconds: ChatTemplates(limits=each) for seconds, each in limits.items()}
    yield made
    for each in made.values():
        each.close()


def test_a_library_s_own_way_to_write_chats_stays(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template_type": "deepseek_v32"}))
    plain, ours = load_tokenizer(folder), load_tokenizer(folder)
    with closing(ChatTemplates()) as chats:
        assert not chats.bind(ours)
        assert ours.has_chat_template
        found = ours.apply_chat_template(HELLO, add_generation_prompt=True)
        assert found == plain.apply_chat_template(HELLO, add_generation_prompt=True)


def test_a_tokenizer_is_bound_for_a_while_only(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    before = tokenizer.apply_chat_template(HELLO)
    with bound(tokenizer):
        assert "apply_chat_template" in vars(tokenizer._tokenizer)
        assert tokenizer.apply_chat_template(HELLO) == before
    assert "apply_chat_template" not in vars(tokenizer._tokenizer)
    assert tokenizer.apply_chat_template(HELLO) == before


def test_unsupported_options_and_no_messages_are_refused(pair: tuple[Any, Any]) -> None:
    for option in ({"continue_final_message": True}, {"truncation": True, "max_length": 3}):
        with pytest.raises(TypeError):
            pair[0].apply_chat_template(HELLO, **option)
    with pytest.raises(TemplateRaised):
        pair[0].apply_chat_template([])
