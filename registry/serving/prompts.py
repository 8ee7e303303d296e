"""From messages or text to tokens, in threads of their own: neither the network nor generation waits for a long prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from .bodies import Message
from .errors import EngineError, Refusal, sentence
from .templates.chat import ChatTemplates, encoded
from .templates.errors import NoProcess, TemplateError, TemplateTooLong

WIDTH = 2
"""Chats whose templates are rendered at a time: one that takes long is not waited for by all."""

T = TypeVar("T")


class Prompts:
    """Makes tokens of prompts.  One thread for that: a tokenizer is not made for several.

    Attributes:
        templates: render the base's chat template.
    """

    def __init__(self, tokenizer: Any, *, context: int, vocabulary: int) -> None:
        """Prepare.

        Args:
            tokenizer: mlx-lm's.
            context: tokens of prompt and answer together.
            vocabulary: token ids are below it.
        """
        self._tokenizer, self._context, self._vocabulary = tokenizer, context, vocabulary
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._rendering = ThreadPoolExecutor(WIDTH, thread_name_prefix="templates")
        self.templates = ChatTemplates(width=WIDTH)
        self._bound = self.templates.bind(tokenizer, context=context) and tokenizer.has_chat_template

    def start(self) -> None:
        """See that chats can be rendered.

        Raises:
            EngineError: they cannot.
        """
        try:
            if self._bound:
                self.templates.start()
        except NoProcess as error:
            raise EngineError(str(error)) from error

    async def chat(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """Return the tokens of a chat, by the base's chat template and its options.

        Raises:
            Refusal: the base has no template, the template refuses the messages or needs too much for them, or there are
                too many tokens.
        """
        if not self._tokenizer.has_chat_template:
            raise Refusal(400, "the base has no chat template; use /v1/completions", param="messages")
        given = [message.model_dump(exclude_none=True) for message in messages]
        asked = partial(self._tokenizer.apply_chat_template, given, add_generation_prompt=True, **options)
        if not self._bound:
            return self._checked(await self._run(partial(asked, tokenize=True), "messages"), "messages")
        text = await self._run(partial(asked, tokenize=False), "messages", self._rendering)
        return self._checked(await self._run(partial(encoded, self._tokenizer, text), "messages"), "messages")

    async def text(self, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            Refusal: a token is not in the vocabulary, or there are too many or none.
        """
        if isinstance(prompt, str):
            return self._checked(await self._run(partial(self._tokenizer.encode, prompt), "prompt"), "prompt")
        if not all(0 <= token < self._vocabulary for token in prompt):
            raise Refusal(400, f"prompt must have tokens from 0 to {self._vocabulary - 1}", param="prompt")
        return self._checked(prompt, "prompt")

    def close(self) -> None:
        """End the threads, and what they wait for."""
        self.templates.close()
        for pool in (self._rendering, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, made: Callable[[], T], field: str, pool: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._pool, made)
        except TemplateTooLong as error:
            raise Refusal(
                400,
                f"{sentence(error)}; this model's maximum context length is {self._context} tokens",
                param=field,
                code="context_length_exceeded",
            ) from error
        except TemplateError as error:
            raise Refusal(503 if error.temporary else 400, sentence(error), param=field) from error
        except Exception as error:
            raise Refusal(
                400, f"the model's tokenizer refuses the {field}: {sentence(error)}", param=field
            ) from error

    def _checked(self, found: Sequence[int], field: str) -> list[int]:
        tokens = [int(token) for token in found]
        if not tokens:
            raise Refusal(400, f"{field}: no tokens", param=field)
        if len(tokens) >= self._context:
            raise Refusal(
                400,
                f"{field}: {len(tokens)} tokens; this model's maximum context length is {self._context}"
                f" tokens, of which the answer needs at least one",
                param=field,
                code="context_length_exceeded",
            )
        return tokens
