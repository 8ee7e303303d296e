"""Chat templates: the same text and tokens as transformers and mlx-lm make, and hostile ones end in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import chat_templates
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.registry.behaviour.models import load_tokenizer
from fusery.registry.server.templates.chat import ChatTemplates, bound, encoded
from fusery.registry.server.templates.errors import TemplateError, TemplateRaised, TemplateTooLong
from fusery.registry.server.templates.process import Limits

pytestmark = pytest.mark.timing

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say the <weather> für a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}

text = st.text(max_size=40) | st.sampled_from(
    ["", " a \n", "<think>\nx\n</think>\n\ny", "{{ 7 * 7 }}", "é\U0001f600", "<|im_end|>"]
)
call = st.fixed_dictionaries(
    {
        "function": st.fixed_dictionaries(
            {"name": text, "arguments": st.dictionaries(text, st.none() | st.integers() | text)}
        )
    }
)
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
    """The same tokenizer twice, the first of them bound."""
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
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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
        for tokenizer in pair:
            tokenizer._tokenizer.chat_template = source
        made, expected = (
            each.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False) for each in pair
        )
        assert "hello" in made, family
        assert made == expected
        tokens, expected = (each.apply_chat_template(HELLO, add_generation_prompt=True) for each in pair)
        assert tokens == encoded(pair[0], made) == expected


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


def test_a_template_file_beside_the_model_is_rendered_too(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | tojson }}")
    plain, bound_one = load_tokenizer(folder), load_tokenizer(folder)
    with bound(bound_one):
        for tools in (None, [TOOL]):
            assert bound_one.apply_chat_template(HELLO, tools=tools) == plain.apply_chat_template(
                HELLO, tools=tools
            )


@pytest.mark.parametrize("name", chat_templates.HOSTILE)
def test_hostile_templates_end_in_a_sentence(
    name: str, hostile_chats: ChatTemplates, patient_chats: ChatTemplates
) -> None:
    source, said = chat_templates.HOSTILE[name]
    # A busy machine takes longer to fill the memory, and to fail, than one without end may.
    chats = hostile_chats if "needed more than" in said else patient_chats
    with pytest.raises(TemplateError) as caught:
        chats.render(source, {"messages": HELLO})
    sentence = str(caught.value)
    assert said in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1100
    assert chats.render(chat_templates.CHATML, {"messages": HELLO}).startswith("<|im_start|>user\nhello")


@pytest.fixture(scope="module")
def hostile_chats() -> Iterator[ChatTemplates]:
    with closing(ChatTemplates(limits=Limits(0.5, memory=256 << 20, characters=1_000_000))) as made:
        yield made


@pytest.fixture(scope="module")
def patient_chats() -> Iterator[ChatTemplates]:
    with closing(ChatTemplates(limits=Limits(60, memory=256 << 20, characters=1_000_000))) as made:
        yield made


SLOW: Mapping[str, tuple[str, dict[str, Any]]] = {
    "a name of a variable": (
        "{% if enable_thinking %}" + chat_templates.ENDLESS + "{% endif %}",
        {"enable_thinking": True},
    ),
    "an attribute": (chat_templates.SLOW_IF_ASKED, {}),
    "a tool": ("{% for t in tools %}" + chat_templates.ENDLESS + "{% endfor %}", {"tools": [TOOL]}),
    "a message": ("{{ 'x' * (messages[0].content | length) * 10 ** 9 }}", {}),
}


@pytest.mark.parametrize("where", SLOW)
def test_slow_whatever_makes_it_slow(tiny_base: Path, where: str) -> None:
    """A template that is slow for some chats only."""
    source, more = SLOW[where]
    tokenizer = load_tokenizer(tiny_base)
    with closing(ChatTemplates(limits=Limits(seconds=0.3, memory=256 << 20))) as chats:
        chats.bind(tokenizer)
        tokenizer._tokenizer.chat_template = source
        with pytest.raises(TemplateError):
            tokenizer.apply_chat_template([{"role": "user", "content": "be slow"}], **more)


def test_no_text_is_made_that_the_context_cannot_hold(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    longest = max(map(len, tokenizer.get_vocab()))
    with closing(ChatTemplates()) as chats:
        chats.bind(tokenizer, context=100)
        tokenizer._tokenizer.chat_template = "{{ messages[0].content }}"
        fits = [{"role": "user", "content": "x" * (100 * longest)}]
        assert tokenizer.apply_chat_template(fits, tokenize=False) == fits[0]["content"]
        with pytest.raises(TemplateTooLong):
            tokenizer.apply_chat_template([{"role": "user", "content": "x" * (100 * longest + 1)}])


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
