"""From messages or text to tokens, in a thread of its own: neither the network nor generation waits for a long prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .bodies import Message
from .errors import Refusal, sentence


class Prompts:
    """Makes tokens of prompts.  One thread: a tokenizer is not made for several."""

    def __init__(self, tokenizer: Any, *, context: int, vocabulary: int) -> None:
        """Prepare.

        Args:
            tokenizer: mlx-lm's.
            context: tokens of prompt and answer together.
            vocabulary: token ids are below it.
        """
        self._tokenizer, self._context, self._vocabulary = tokenizer, context, vocabulary
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    async def chat(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """Return the tokens of a chat, by the base's chat template and its options.

        Raises:
            Refusal: the base has no template, the template refuses the messages, or there are too many tokens.
        """
        if not self._tokenizer.has_chat_template:
            raise Refusal(400, "the base has no chat template; use /v1/completions", param="messages")
        given = [message.model_dump(exclude_none=True) for message in messages]
        return await self._run(
            lambda: self._tokenizer.apply_chat_template(
                given, add_generation_prompt=True, tokenize=True, **options
            ),
            "messages",
        )

    async def text(self, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            Refusal: a token is not in the vocabulary, or there are too many or none.
        """
        if isinstance(prompt, str):
            return await self._run(lambda: self._tokenizer.encode(prompt), "prompt")
        if not all(0 <= token < self._vocabulary for token in prompt):
            raise Refusal(400, f"prompt must have tokens from 0 to {self._vocabulary - 1}", param="prompt")
        return self._checked(prompt, "prompt")

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, encode: Callable[[], Any], field: str) -> list[int]:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, encode)
        except Exception as error:
            raise Refusal(
                400, f"the model's tokenizer refuses the {field}: {sentence(error)}", param=field
            ) from error
        return self._checked([int(token) for token in found], field)

    def _checked(self, tokens: list[int], field: str) -> list[int]:
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
