"""How a token is chosen: mlx-lm's samplers and penalties, and one of our own where a request names a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

LOOK_BACK = 20
"""Tokens that penalties look back on, as mlx-lm has it."""

Sampler = Callable[[Any], Any]
"""Takes log-probabilities (answers, vocabulary), returns token ids (answers)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The options of a request, within the bounds that `bodies` checks.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: the smallest set of tokens with this much probability; 1 for all.
        top_k: so many of the likeliest tokens; 0 for all.
        min_p: tokens with at least this share of the likeliest one's probability.
        seed: makes the choice repeatable.
        presence_penalty: taken from the logit of a token that has been there.
        frequency_penalty: taken for each time that it has been there.
        repetition_penalty: the logit of such a token is divided by it; 1 for none.
        logit_bias: token id to what is added to its logit.
        presence_context_size: how many of the last tokens each penalty looks back on.
        frequency_context_size: the same.
        repetition_context_size: the same.
        xtc_probability: how often all likely tokens but the least likely of them are left out.
        xtc_threshold: from which probability on a token is a likely one.
        xtc_spared: tokens that are never left out.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_context_size: int = LOOK_BACK
    frequency_context_size: int = LOOK_BACK
    repetition_context_size: int = LOOK_BACK
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_spared: tuple[int, ...] = ()


def make_sampler(options: Sampling) -> Sampler:
    """Return a sampler; equal options give the same one, which lets a batch sample in one call.

    With a seed it is a new one, since it counts its draws.
    """
    if options.seed is None or options.temperature == 0:
        xtc = (options.xtc_probability, options.xtc_threshold, options.xtc_spared)
        return _shared(options.temperature, options.top_p, options.top_k, options.min_p, *xtc)
    return _seeded(options, options.seed)


@lru_cache(maxsize=256)
def _shared(
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    xtc_probability: float,
    xtc_threshold: float,
    xtc_spared: tuple[int, ...],
) -> Sampler:
    from mlx_lm.sample_utils import make_sampler as make

    made: Sampler = make(
        temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        xtc_special_tokens=list(xtc_spared),
    )
    return made


def _seeded(options: Sampling, seed: int) -> Sampler:
    """Choose with random numbers of the request's own: mlx-lm's global seed would be everybody's."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, apply_xtc

    state = mx.random.key(seed)

    def sample(logprobs: Any) -> Any:
        nonlocal state
        if 0 < options.top_p < 1:
            logprobs = apply_top_p(logprobs, options.top_p)
        if options.min_p > 0:
            logprobs = apply_min_p(logprobs, options.min_p)
        if options.xtc_probability > 0:
            state, draw = mx.random.split(state)
            left = apply_xtc(logprobs, 1.0, options.xtc_threshold, list(options.xtc_spared))
            logprobs = mx.where(mx.random.uniform(key=draw) > options.xtc_probability, logprobs, left)
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
        options.repetition_context_size,
        presence_penalty=options.presence_penalty,
        presence_context_size=options.presence_context_size,
        frequency_penalty=options.frequency_penalty,
        frequency_context_size=options.frequency_context_size,
    )
    return made
