"""Sampling of tokens: mlx-lm's samplers and penalties, and a seeded sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

Sampler = Callable[[Any], Any]  # takes log-probabilities (answers, vocabulary), returns token ids (answers)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The options of a request, within the bounds of `schemas`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 for all
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # by token id


def make_sampler(options: Sampling) -> Sampler:
    """Return a sampler; equal options without a seed give the same object, so that a batch samples in one call."""
    if options.seed is None or options.temperature == 0:
        return _shared(options.temperature, options.top_p, options.top_k, options.min_p)
    return _seeded(options, options.seed)


@lru_cache(maxsize=256)
def _shared(temperature: float, top_p: float, top_k: int, min_p: float) -> Sampler:
    from mlx_lm.sample_utils import make_sampler as make

    return make(temperature, top_p=top_p, top_k=top_k, min_p=min_p)  # type: ignore[no-any-return]


def _seeded(options: Sampling, seed: int) -> Sampler:
    """Return a sampler with a random state of its own; mlx-lm's is global."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    state = mx.random.key(seed)

    def sample(logprobs: Any) -> Any:
        nonlocal state
        if 0 < options.top_p < 1:
            logprobs = apply_top_p(logprobs, options.top_p)
        if options.min_p > 0:
            logprobs = apply_min_p(logprobs, options.min_p)
        if options.top_k > 0:
            logprobs = apply_top_k(logprobs, options.top_k)
        state, draw = mx.random.split(state)
        return mx.random.categorical(logprobs * (1 / options.temperature), key=draw)

    return sample


def make_processors(options: Sampling) -> list[Callable[[Any, Any], Any]]:
    """Return mlx-lm's functions that change logits; they take the tokens so far and the logits."""
    from mlx_lm.sample_utils import make_logits_processors

    return make_logits_processors(  # type: ignore[no-any-return]
        dict(options.logit_bias) or None,
        options.repetition_penalty if options.repetition_penalty != 1 else None,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
    )


IMPOSSIBLE = -9999.0  # for probability 0, as in OpenAI's API: JSON has no infinity


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer."""

    token: str  # its text; U+FFFD for a part of a character
    logprob: float  # natural logarithm of its probability, before temperature
    top: tuple[tuple[str, float], ...] = ()  # the likeliest tokens, the first first


def measure(tokenizer: Any, token: int, logprobs: Any, count: int) -> TokenLogprob:
    """Return a token's log probability, and those of the likeliest tokens."""
    import mlx.core as mx

    count = min(count, logprobs.size)
    likeliest: Any = mx.argpartition(-logprobs, kth=count - 1)[:count].tolist() if count else []
    wanted = logprobs[mx.array([token, *likeliest])].tolist()
    values = [max(float(value), IMPOSSIBLE) for value in wanted]
    top = sorted(zip(likeliest, values[1:], strict=True), key=lambda pair: (-pair[1], pair[0]))
    anchor = anchor_tokens(tokenizer)
    before = len(tokenizer.decode(anchor))

    def text(token_id: int) -> str:
        return str(tokenizer.decode([*anchor, token_id])[before:])

    return TokenLogprob(text(token), values[0], tuple((text(likely), value) for likely, value in top))


def anchor_tokens(tokenizer: Any) -> list[int]:
    """Return tokens to decode before others: decoders drop the space before a text's first word."""
    return tokenizer.encode("a", add_special_tokens=False)  # type: ignore[no-any-return]


def chat_form(tokens: Sequence[TokenLogprob]) -> dict[str, object]:
    """Return `logprobs` of a chat."""
    return {
        "content": [
            _entry(token.token, token.logprob) | {"top_logprobs": [_entry(*other) for other in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def text_form(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, object]:
    """Return `logprobs` of a text after `offset` characters."""
    offsets = accumulate((len(token.token) for token in tokens), initial=offset)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(reversed(token.top)) for token in tokens],
        "text_offset": [begin for begin, _ in zip(offsets, tokens, strict=False)],
    }


def _entry(token: str, logprob: float) -> dict[str, object]:
    # The bytes of a part of a character are unknown.
    token_bytes = None if "\ufffd" in token else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": logprob, "bytes": token_bytes}
