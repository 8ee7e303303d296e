"""How a token is chosen: mlx-lm's samplers and penalties, and one of our own where a request names a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Sampler = Callable[[Any], Any]  # takes log-probabilities (answers, vocabulary), returns token ids (answers)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The options of a request, within the bounds that `schemas` checks."""

    temperature: float = 1.0  # 0 takes the likeliest token
    top_p: float = 1.0  # the smallest set of tokens with this much probability; 1 for all
    top_k: int = 0  # so many of the likeliest tokens; 0 for all
    min_p: float = 0.0  # tokens with at least this share of the likeliest one's probability
    seed: int | None = None
    presence_penalty: float = 0.0  # taken from the logit of a token that has been there
    frequency_penalty: float = 0.0  # taken for each time that it has been there
    repetition_penalty: float = 1.0  # the logit of such a token is divided by it; 1 for none
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id to what is added to its logit


def make_sampler(options: Sampling) -> Sampler:
    """Return a sampler; equal options give the same one, which lets a batch sample in one call.

    With a seed it is a new one, since it counts its draws.
    """
    if options.seed is None or options.temperature == 0:
        return _shared(options.temperature, options.top_p, options.top_k, options.min_p)
    return _seeded(options, options.seed)


@lru_cache(maxsize=256)
def _shared(temperature: float, top_p: float, top_k: int, min_p: float) -> Sampler:
    from mlx_lm.sample_utils import make_sampler as make

    made: Sampler = make(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    return made


def _seeded(options: Sampling, seed: int) -> Sampler:
    """Choose with random numbers of the request's own: mlx-lm's global seed would be everybody's."""
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
    """Return mlx-lm's functions that change logits, which take the tokens so far and the logits."""
    from mlx_lm.sample_utils import make_logits_processors

    made: list[Callable[[Any, Any], Any]] = make_logits_processors(
        dict(options.logit_bias) or None,
        options.repetition_penalty if options.repetition_penalty != 1 else None,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
    )
    return made


IMPOSSIBLE = -9999.0  # for a token of no probability, as OpenAI's API has it: JSON has no infinity


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer."""

    token: str  # its text; bytes that are no character by themselves are U+FFFD
    logprob: float  # natural logarithm of its probability, before temperature and the like
    top: tuple[tuple[str, float], ...] = ()  # the likeliest tokens there with theirs, likeliest first


def measure(tokenizer: Any, token: int, logprobs: Any, count: int) -> TokenLogprob:
    """Return how likely a token was."""
    import mlx.core as mx

    count = min(count, logprobs.size)
    likeliest: Any = mx.argpartition(-logprobs, kth=count - 1)[:count].tolist() if count else []
    wanted = logprobs[mx.array([token, *likeliest])].tolist()
    values = [max(float(value), IMPOSSIBLE) for value in wanted]
    top = sorted(zip(likeliest, values[1:], strict=True), key=lambda pair: (-pair[1], pair[0]))
    anchor = anchor_tokens(tokenizer)
    before = len(tokenizer.decode(anchor))
    text, *others = (
        tokenizer.decode([*anchor, token_id])[before:]
        for token_id in (token, *(likely_id for likely_id, _ in top))
    )
    pairs = zip(others, (value for _, value in top), strict=True)
    return TokenLogprob(text, values[0], tuple(pairs))


def anchor_tokens(tokenizer: Any) -> list[int]:
    """Return tokens of a short text: decoders drop the space before a text's first word, but not before the next."""
    tokens: list[int] = tokenizer.encode("a", add_special_tokens=False)
    return tokens


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
    """Return `logprobs` of a text, of which `offset` characters came before."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(reversed(token.top)) for token in tokens],
        "text_offset": offsets,
    }


def _entry(token: str, logprob: float) -> dict[str, object]:
    # Of half a character, only the tokenizer knows the bytes.
    token_bytes = None if "\ufffd" in token else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": logprob, "bytes": token_bytes}
