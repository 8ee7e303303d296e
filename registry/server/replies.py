"""What is said in return, in the form of OpenAI's API: whole answers, and the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .logprobs import TokenLogprob, chat_form, text_form
from .routing import Target
from .writing import Piece

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Choice:
    """One answer as it grows.

    Attributes:
        text: so far.
        tokens: how many it took.
        finish: why it ended.
        asks_logprobs: whether `logprobs` are wanted.
        logprobs: of the tokens so far.
        calls: of functions so far.
    """

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    asks_logprobs: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: who answers, and since when.

    Attributes:
        kind: of request.
        target: what answers; its full name is the reply's `model`, whatever name was asked for.
        created: seconds since 1970.
        id: of the reply.
    """

    kind: Literal["chat", "text"]
    target: Target
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    def whole(self, choices: Sequence[Choice], used: Mapping[str, Any]) -> dict[str, Any]:
        """Return a reply that is not streamed."""
        return {
            **self._head(stream=False),
            "choices": [self._choice(number, choice) for number, choice in enumerate(choices)],
            "usage": used,
        }

    def opening(self, count: int) -> list[bytes]:
        """Return the events before the first text: a chat says who speaks."""
        if self.kind == "text":
            return []
        delta = {"role": "assistant", "content": ""}
        return [
            self._event([{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}])
            for number in range(count)
        ]

    def piece(self, number: int, piece: Piece, choice: Choice) -> bytes:
        """Return the event for new text of one answer, which `choice` has already."""
        told = choice.logprobs[-1:] if piece.logprob else []
        part: dict[str, Any] = {
            "index": number,
            "logprobs": self._logprobs(choice, told),
            "finish_reason": piece.finish,
        }
        if self.kind == "text":
            part["text"] = piece.text
        else:
            part["delta"] = {"content": piece.text} if piece.text else {}
            before = len(choice.calls) - len(piece.calls)
            if piece.calls:
                part["delta"]["tool_calls"] = [
                    {"index": before + place, **call} for place, call in enumerate(piece.calls)
                ]
        return self._event([part])

    def closing(self, used: Mapping[str, Any]) -> bytes:
        """Return the event with the numbers of tokens."""
        return self._event([], usage=used)

    def _head(self, *, stream: bool) -> dict[str, Any]:
        chat = self.kind == "chat"
        name = "chat.completion" + (".chunk" if stream else "") if chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            "object": name,
            "created": self.created,
            "model": self.target.name,
            "system_fingerprint": f"fusery-{self.target.digest[:16]}" if self.target.digest else None,
        }

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice, choice.logprobs)
        common = {"index": number, "logprobs": logprobs, "finish_reason": choice.finish}
        if self.kind == "text":
            return {**common, "text": choice.text}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": choice.calls}
        return {**common, "message": message}

    def _logprobs(self, choice: Choice, told: list[TokenLogprob]) -> dict[str, Any] | None:
        """Return what is said of an answer's last tokens."""
        if not choice.asks_logprobs:
            return None
        if self.kind == "chat":
            return chat_form(told)
        before = choice.logprobs[: len(choice.logprobs) - len(told)]
        return text_form(told, sum(len(each.token) for each in before))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self._head(stream=True), "choices": choices, **more})


def usage(choices: Sequence[Choice], prompt_tokens: int, reused: int) -> dict[str, Any]:
    """Return the numbers of tokens of a request; `reused` are those of its prompts that had been read before."""
    written = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def event(document: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
