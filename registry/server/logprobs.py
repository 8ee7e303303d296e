"""How likely each token of an answer was, and what else it might have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

IMPOSSIBLE = -9999.0
"""For a token of no probability, as OpenAI's API has it: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer.

    Attributes:
        token: its text; bytes that are no character by themselves are U+FFFD.
        logprob: natural logarithm of its probability, before temperature and the like.
        top: the likeliest tokens there with theirs, likeliest first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


def measure(tokenizer: Any, token: int, logprobs: Any, count: int) -> TokenLogprob:
    """Return how likely a token was.

    Args:
        tokenizer: mlx-lm's.
        token: that was chosen.
        logprobs: an array with a value for each token of the vocabulary.
        count: how many of the likeliest to tell.
    """
    import mlx.core as mx

    count = min(count, logprobs.size)
    likeliest: Any = mx.argpartition(-logprobs, kth=count - 1)[:count].tolist() if count else []
    wanted = logprobs[mx.array([token, *likeliest])].tolist()
    values = [max(float(value), IMPOSSIBLE) for value in wanted]
    top = sorted(zip(likeliest, values[1:], strict=True), key=lambda pair: (-pair[1], pair[0]))
    anchor = anchor_tokens(tokenizer)
    before = len(tokenizer.decode(anchor))
    text, *others = (
        tokenizer.decode([*anchor, each])[before:] for each in (token, *(each for each, _ in top))
    )
    pairs = zip(others, (value for _, value in top), strict=True)
    return TokenLogprob(text, values[0], tuple(pairs))


def anchor_tokens(tokenizer: Any) -> list[int]:
    """Return tokens of a short text: decoders drop the space before a text's first word, but not before the next."""
    tokens: list[int] = tokenizer.encode("a", add_special_tokens=False)
    return tokens


def chat_form(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return `logprobs` of a chat."""
    return {
        "content": [
            _entry(each.token, each.logprob) | {"top_logprobs": [_entry(*other) for other in each.top]}
            for each in tokens
        ],
        "refusal": None,
    }


def text_form(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return `logprobs` of a text, of which `offset` characters came before."""
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each.token)
    return {
        "tokens": [each.token for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [dict(reversed(each.top)) for each in tokens],
        "text_offset": offsets,
    }


def _entry(token: str, logprob: float) -> dict[str, Any]:
    # Of half a character, only the tokenizer knows the bytes.
    known = None if "\ufffd" in token else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": logprob, "bytes": known}
