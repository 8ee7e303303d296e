"""From messages or text to tokens: as the tokenizer has it, and not at all when it cannot be short enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from mlx_lm.tokenizer_utils import load as load_tokenizer

from fusery.registry.server.bodies import Message
from fusery.registry.server.errors import Refusal
from fusery.registry.server.prompts import Prompts

CONTEXT = 100


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return load_tokenizer(tiny_models.make_base(tmp_path / "base", layers=1, hidden=64, intermediate=64))


@pytest.fixture
def encoded(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Get the lengths of what the tokenizer is given; both ways to it lead through one method."""
    seen: list[int] = []
    inner = type(tokenizer._tokenizer)
    encode = inner._encode_plus

    def noted(self: Any, text: str, *rest: Any, **options: Any) -> Any:
        seen.append(len(text))
        return encode(self, text, *rest, **options)

    monkeypatch.setattr(inner, "_encode_plus", noted)
    return seen


@pytest.fixture
def prompts(tokenizer: Any) -> Iterator[Prompts]:
    made = Prompts(tokenizer, context=CONTEXT, vocabulary=320)
    yield made
    made.close()


def longest(tokenizer: Any) -> int:
    return max(map(len, tokenizer.get_vocab()))


def chat(prompts: Prompts, messages: list[Message]) -> list[int]:
    return prompts.chat(prompts.render(messages, {}))


def test_a_chat_is_what_the_tokenizer_makes_of_it(tokenizer: Any) -> None:
    given = [{"role": "user", "content": "hello"}]
    expected = list(tokenizer.apply_chat_template(given, add_generation_prompt=True, tokenize=True))
    prompts = Prompts(
        tokenizer, context=CONTEXT, vocabulary=320
    )  # which renders for the tokenizer from now on
    assert prompts.renders_apart
    assert chat(prompts, [Message(role="user", content="hello")]) == expected
    prompts.close()


def test_text_is_what_the_tokenizer_makes_of_it(prompts: Prompts, tokenizer: Any) -> None:
    assert prompts.text("Grüße 🚀") == list(tokenizer.encode("Grüße 🚀"))
    assert prompts.text([1, 2, 3]) == [1, 2, 3]


@pytest.mark.parametrize("over", [1, 10_000_000])
def test_what_is_too_long_in_any_case_is_not_tokenised(
    prompts: Prompts, tokenizer: Any, encoded: list[int], over: int
) -> None:
    text = "a" * (CONTEXT * longest(tokenizer) + over)
    for ask in (
        lambda: prompts.text(text),
        lambda: chat(prompts, [Message(role="user", content=text)]),
        lambda: chat(prompts, [Message(role="user", content=text[: len(text) // 4])] * 5),
        lambda: prompts.chat(text),
    ):
        with pytest.raises(Refusal, match="maximum context length is 100") as caught:
            ask()
        assert caught.value.document["error"]["code"] == "context_length_exceeded"
    assert encoded == []


def test_what_a_template_makes_too_long_is_not_tokenised(
    prompts: Prompts, tokenizer: Any, encoded: list[int]
) -> None:
    tokenizer._tokenizer.chat_template = "{{ messages[0].content * 5000 }}"
    with pytest.raises(Refusal, match="context length"):
        chat(prompts, [Message(role="user", content="ab")])
    assert encoded == []


def test_what_could_be_short_enough_is_tokenised(
    prompts: Prompts, tokenizer: Any, encoded: list[int]
) -> None:
    length = CONTEXT * longest(tokenizer)
    with pytest.raises(Refusal, match=f"{length} tokens"):
        prompts.text("a" * length)
    assert encoded == [length]


@pytest.mark.parametrize("prompt", [[320], [-1], [10**30], [True + 319]])
def test_tokens_that_are_none(prompts: Prompts, prompt: list[int]) -> None:
    with pytest.raises(Refusal, match="from 0 to 319"):
        prompts.text(prompt)
