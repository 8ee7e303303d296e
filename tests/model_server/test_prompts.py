"""From messages or text to tokens: as the tokenizer has it, and not at all when it cannot be short enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from chat_templates import CHATML
from mlx_lm.tokenizer_utils import load as load_tokenizer

from fusery.model_server.prompts import PromptEncoder
from fusery.model_server.schemas import Message
from fusery.registry.runtime.errors import Refusal

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
def prompts(tokenizer: Any) -> Iterator[PromptEncoder]:
    made = PromptEncoder(tokenizer, context=CONTEXT, vocabulary=320)
    yield made
    made.close()


ROLES = "system", "developer"  # of instructions, in OpenAI's older and newer words


def chat(prompts: PromptEncoder, messages: list[Message]) -> list[int]:
    return prompts.chat(prompts.render(messages, {}))


def test_tokens_are_what_the_tokenizer_makes_of_it(tokenizer: Any) -> None:
    given = [{"role": "user", "content": "hello"}]
    expected = list(tokenizer.apply_chat_template(given, add_generation_prompt=True, tokenize=True))
    prompts = PromptEncoder(tokenizer, context=CONTEXT, vocabulary=320)  # it renders from now on
    assert prompts.renders_apart
    assert chat(prompts, [Message(role="user", content="hello")]) == expected
    instructed = [[Message(role=role, content="short"), Message(role="user", content="a")] for role in ROLES]
    assert chat(prompts, instructed[0]) == chat(prompts, instructed[1])
    assert prompts.text("Grüße 🚀") == list(tokenizer.encode("Grüße 🚀"))
    assert prompts.text([1, 2, 3]) == [1, 2, 3]
    for tokens in ([320], [-1], [10**30], [True + 319]):
        with pytest.raises(Refusal):
            prompts.text(tokens)
    prompts.close()


@pytest.mark.parametrize("over", [1, 10_000_000])
def test_what_is_too_long_in_any_case_is_not_tokenised(
    prompts: PromptEncoder, tokenizer: Any, encoded: list[int], over: int
) -> None:
    most = CONTEXT * max(map(len, tokenizer.get_vocab()))
    text = "a" * (most + over)
    tokenizer._tokenizer.chat_template = "{{ messages[0].content * 5000 if messages | length == 2 }}" + CHATML
    for ask in (
        lambda: prompts.text(text),
        lambda: chat(prompts, [Message(role="user", content=text)]),
        lambda: chat(prompts, [Message(role="user", content=text[: len(text) // 4])] * 5),
        lambda: chat(prompts, [Message(role="user", content="ab")] * 2),
        lambda: prompts.chat(text),
    ):
        with pytest.raises(Refusal) as caught:
            ask()
        assert caught.value.document["error"]["code"] == "context_length_exceeded"
    assert encoded == []
    with pytest.raises(Refusal):  # what could be short enough is tokenised
        prompts.text("a" * most)
    assert encoded == [most]
