"""Chat templates of mlx-lm's tokenizers, rendered in processes for templates instead of where the tokenizer is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .process import Limits, NoProcess, TemplateProcesses, TemplateRaised, TemplateTooMuch

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; templates use the first, some the second."""

_NOT_DONE = frozenset(
    ("continue_final_message", "max_length", "padding", "return_assistant_tokens_mask", "return_dict")
) | {"return_tensors", "sanitize_control_tokens", "tokenizer_kwargs", "truncation"}
"""Options of transformers' method that are not supported; they must not become variables of the template."""


class ChatTemplates:
    """Renders the chat templates of tokenizers, within limits."""

    def __init__(self, *, limits: Limits | None = None, width: int = 1) -> None:
        self._processes = TemplateProcesses(limits=limits, width=width)

    def bind(self, tokenizer: Any, *, context: int | None = None) -> bool:
        """Replace a tokenizer's `apply_chat_template`, with the same results; return whether mlx-lm calls it."""
        from transformers import PreTrainedTokenizerBase

        inner = _inner(tokenizer)
        if type(inner).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            return False
        most = None if context is None else context * max(map(len, inner.get_vocab()), default=1)

        def apply(conversation: Any, *, tokenize: bool = True, **options: Any) -> Any:
            text = self._text(inner, conversation, most, **options)
            return encoded(inner, text) if tokenize else text

        inner.apply_chat_template = apply
        # mlx-lm has formats of chats in Python, which a tokenizer may name.
        return getattr(tokenizer, "_chat_template", None) is None

    def render(self, template: str, values: Mapping[str, Any], most: int | None = None) -> str:
        """Render a template."""
        try:
            return self._processes.render({"template": template, "values": values}, most)
        except TemplateRaised as error:
            raise TemplateRaised(f"the model's chat template fails: {error}") from error
        except (TemplateTooMuch, NoProcess) as error:
            raise type(error)(f"the model's chat template {error}") from error

    def start(self, *, wait: bool = True) -> None:
        """Start a process, and wait for it unless `wait` is False."""
        try:
            self._processes.start(wait=wait)
        except NoProcess as error:
            raise NoProcess(f"the model's chat template {error}") from error

    def close(self) -> None:
        """Kill the processes; running requests fail."""
        self._processes.close()

    def _text(
        self,
        tokenizer: Any,
        conversation: Any,
        most: int | None,
        *,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str:
        """Return a chat's text, as transformers' method does."""
        wrong = sorted(name for name in _NOT_DONE & options.keys() if options.pop(name))
        if wrong:
            raise TypeError(f"{', '.join(wrong)}: not done with a chat template that is rendered elsewhere")
        if not conversation:
            raise TemplateRaised("there are no messages")
        values = {
            "messages": [_message(message) for message in conversation],
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        source = tokenizer.get_chat_template(chat_template, tools)
        return self.render(source, {**tokenizer.special_tokens_map, **options, **values}, most)


@contextmanager
def bound(tokenizer: Any) -> Iterator[None]:
    """Render a tokenizer's chats in a separate process while the block runs."""
    chats = ChatTemplates()
    inner = _inner(tokenizer)
    try:
        chats.bind(tokenizer)
        yield
    finally:
        vars(inner).pop("apply_chat_template", None)
        chats.close()


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered chat, which has its special tokens already."""
    return list(_inner(tokenizer)(text, add_special_tokens=False)["input_ids"])


def _inner(tokenizer: Any) -> Any:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    return tokenizer._tokenizer if isinstance(tokenizer, TokenizerWrapper) else tokenizer


def _message(message: Mapping[str, Any]) -> dict[str, object]:
    """Return a message without None, and with its reasoning under both names."""
    kept = {name: value for name, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}
