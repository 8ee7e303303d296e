"""Prompts: messages or text to tokens; texts that are too long are refused before they are tokenised."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..registry.runtime.errors import EngineError, Refusal, invalid, sentence
from ..registry.runtime.templates.chat import ChatTemplates, encoded
from ..registry.runtime.templates.process import NoProcess, TemplateError, TemplateTooLong
from .schemas import Message, Tool

WIDTH = 3  # chat templates rendered at a time; of one tenant one fewer

T = TypeVar("T")


class PromptEncoder:
    """Tokenises prompts; for one thread, except `render`."""

    def __init__(self, tokenizer: Any, *, context: int, vocabulary: int) -> None:
        self._tokenizer, self._context, self._vocabulary = tokenizer, context, vocabulary
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.templates = ChatTemplates(width=WIDTH)
        bound = self.templates.bind(tokenizer, context=context)
        self.renders_apart = bound and tokenizer.has_chat_template

    def start(self) -> None:
        """Check that chats can be rendered."""
        try:
            if self.renders_apart:
                self.templates.start()
        except NoProcess as error:
            raise EngineError(str(error)) from error

    def render(
        self, messages: Sequence[Message], options: Mapping[str, Any], tools: Sequence[Tool] = ()
    ) -> str:
        """Render a chat with the tokenizer's chat template: the adapters' template, if they have one."""
        if not self._tokenizer.has_chat_template:
            raise invalid("messages", "the base has no chat template; use /v1/completions")
        self._bounded(sum(len(message.content) for message in messages), "messages")
        conversation = [_template_message(message) for message in messages]
        functions = [tool.model_dump(exclude_unset=True) for tool in tools]
        settings = {"tools": functions or None, "add_generation_prompt": True, "tokenize": False, **options}
        apply = self._tokenizer.apply_chat_template
        return str(self._converted("messages", lambda: apply(conversation, **settings)))

    def chat(self, text: str) -> list[int]:
        """Return the tokens of a rendered chat."""
        self._bounded(len(text), "messages")
        return self._encoded("messages", lambda: encoded(self._tokenizer, text))

    def text(self, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a prompt."""
        if isinstance(prompt, str):
            self._bounded(len(prompt), "prompt")
            return self._encoded("prompt", lambda: self._tokenizer.encode(prompt))
        if not all(0 <= token < self._vocabulary for token in prompt):
            raise invalid("prompt", f"tokens must be from 0 to {self._vocabulary - 1}")
        return self._checked(prompt, "prompt")

    def close(self) -> None:
        """Kill the processes for templates."""
        self.templates.close()

    def _encoded(self, field: str, encode: Callable[[], Any]) -> list[int]:
        return self._checked(self._converted(field, lambda: [int(token) for token in encode()]), field)

    def _converted(self, field: str, make: Callable[[], T]) -> T:
        try:
            return make()
        except TemplateTooLong as error:
            raise self._too_long(field, sentence(error)) from error
        except TemplateError as error:
            raise Refusal(503 if error.temporary else 400, sentence(error), param=field) from error
        except Exception as error:
            raise invalid(field, f"the model's tokenizer refuses it: {sentence(error)}") from error

    def _bounded(self, characters: int, field: str) -> None:
        """Refuse a text that is too long even if all its tokens are the longest of the vocabulary."""
        if characters > self._context * self._longest:
            raise self._too_long(field, f"{characters} characters")

    def _checked(self, tokens: list[int], field: str) -> list[int]:
        if not tokens:
            raise invalid(field, "no tokens")
        if len(tokens) >= self._context:
            raise self._too_long(field, f"{len(tokens)} tokens")
        return tokens

    def _too_long(self, field: str, length: str) -> Refusal:
        most = f"this model's maximum context length is {self._context} tokens, of which the answer needs at least one"
        return invalid(field, f"{length}; {most}", "context_length_exceeded")


def _template_message(message: Message) -> dict[str, object]:
    """Return a message as templates expect it: arguments of calls are objects, not OpenAI's JSON text."""
    values = message.model_dump(exclude_none=True)
    values["role"] = {"developer": "system"}.get(message.role, message.role)  # templates know no other
    for call in values.get("tool_calls", ()):
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise invalid("messages", "the arguments of a call must be a JSON object")
        call["function"]["arguments"] = arguments
    return values
