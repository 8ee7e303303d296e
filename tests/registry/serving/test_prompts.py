"""From messages or text to tokens: as the tokenizer has it, and not at all when it cannot be short enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tinymodels
from mlx_lm.tokenizer_utils import load as load_tokenizer

from fusery.registry.serving.bodies import Message
from fusery.registry.serving.errors import Refusal
from fusery.registry.serving.prompts import Prompts

CONTEXT = 100


class Counted:
    """A tokenizer that notes how much it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.encoded: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: Any) -> Any:
        self.encoded.append(len(text))
        return self._tokenizer.encode(text, **options)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Counted:
    return Counted(
        load_tokenizer(tinymodels.make_base(tmp_path / "base", layers=1, hidden=64, intermediate=64))
    )


@pytest.fixture
def prompts(tokenizer: Counted) -> Prompts:
    return Prompts(tokenizer, context=CONTEXT, vocabulary=320)


def longest(tokenizer: Counted) -> int:
    return max(map(len, tokenizer.get_vocab()))


def test_a_chat_is_what_the_tokenizer_makes_of_it(prompts: Prompts, tokenizer: Counted) -> None:
    given = [{"role": "user", "content": "hello"}]
    expected = tokenizer.apply_chat_template(given, add_generation_prompt=True, tokenize=True)
    assert prompts.chat([Message(role="user", content="hello")], {}) == list(expected)


def test_text_is_what_the_tokenizer_makes_of_it(prompts: Prompts, tokenizer: Counted) -> None:
    assert prompts.text("Grüße 🚀") == list(tokenizer.encode("Grüße 🚀"))
    assert prompts.text([1, 2, 3]) == [1, 2, 3]


@pytest.mark.parametrize("over", [1, 10_000_000])
def test_what_is_too_long_in_any_case_is_not_tokenised(
    prompts: Prompts, tokenizer: Counted, over: int
) -> None:
    text = "a" * (CONTEXT * longest(tokenizer) + over)
    for ask in (
        lambda: prompts.text(text),
        lambda: prompts.chat([Message(role="user", content=text)], {}),
        lambda: prompts.chat([Message(role="user", content=text[: len(text) // 4])] * 5, {}),
    ):
        with pytest.raises(Refusal, match="maximum context length is 100") as caught:
            ask()
        assert caught.value.document["error"]["code"] == "context_length_exceeded"
    assert tokenizer.encoded == []


def test_what_a_template_makes_too_long_is_not_tokenised(prompts: Prompts, tokenizer: Counted) -> None:
    tokenizer._tokenizer._tokenizer.chat_template = "{{ messages[0].content * 5000 }}"
    with pytest.raises(Refusal, match="context length"):
        prompts.chat([Message(role="user", content="ab")], {})
    assert tokenizer.encoded == []


def test_what_could_be_short_enough_is_tokenised(prompts: Prompts, tokenizer: Counted) -> None:
    length = CONTEXT * longest(tokenizer)
    with pytest.raises(Refusal, match=f"{length} tokens"):
        prompts.text("a" * length)
    assert tokenizer.encoded == [length]


@pytest.mark.parametrize("prompt", [[320], [-1], [10**30], [True + 319]])
def test_tokens_that_are_none(prompts: Prompts, prompt: list[int]) -> None:
    with pytest.raises(Refusal, match="from 0 to 319"):
        prompts.text(prompt)
