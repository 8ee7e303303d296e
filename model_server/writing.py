"""One running answer: its request, and its text from the tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..registry.runtime.switching import Resident
from .sampling import Sampling, TokenLogprob, anchor_tokens, measure
from .structured import Constraint

Finish = Literal["stop", "length"]
End = Literal["stop", "length", "tool_calls", "error"]


@dataclass(eq=False, slots=True)
class Generation:
    """A request for one answer."""

    resident: Resident | None  # the adapter, None for the base model
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    receiver: Any = None  # called with each piece
    owner: str = ""  # the tenant
    continues: bool = False  # the answer continues the prompt's text, as in `/v1/completions`
    alternatives: int | None = None  # likeliest tokens in `logprobs`; None for no `logprobs`
    constraint: Constraint | None = None
    cancelled: bool = False
    may_keep: Callable[[], bool] = lambda: True  # whether the prompt cache may keep its tokens
    reused: int = 0  # tokens from the prompt cache; known at the first piece
    start: int = sys.maxsize  # index of the first token that the adapter is active on

    def __post_init__(self) -> None:
        """Compute `start`; if the prompt does not contain an aLoRA's invocation tokens, the base model answers."""
        start = None if self.resident is None else self.resident.active_from(self.tokens)
        if start is None:
            self.resident = None
        else:
            self.start = start


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer."""

    text: str
    tokens: int
    finish: End | None = None
    logprob: TokenLogprob | None = None
    calls: tuple[Mapping[str, Any], ...] = ()


class RunningJob:
    """A running answer; `reading` until its prompt is computed."""

    def __init__(self, job: Generation, tokenizer: Any) -> None:
        self.job, self.reading = job, True
        self._tokenizer, self._detokenizer = tokenizer, _make_detokenizer(tokenizer, continues=job.continues)
        self._held = ""  # a possible beginning of a stop string

    def add(self, token: int, finish: Finish | None, logprobs: Any) -> Piece:
        """Return the piece of a token."""
        if self.job.constraint is not None and self.job.constraint.failed:
            return Piece("", 1, "error")
        logprob = None
        if finish != "stop":
            self._detokenizer.add_token(token)
            if self.job.alternatives is not None:
                logprob = measure(self._tokenizer, token, logprobs, self.job.alternatives)
        if finish is not None:
            self._detokenizer.finalize()
        text, stop = self._held + self._detokenizer.last_segment, self.job.stop
        # The stop string that is complete first, whatever the tokens.
        if ends := [(at + len(word), at) for word in stop if (at := text.find(word)) >= 0]:
            return Piece(text[: min(ends)[1]], 1, "stop", logprob)
        begun = [] if finish else [n for word in stop for n in range(len(word)) if text.endswith(word[:n])]
        held = len(text) - max(begun, default=0)
        self._held = text[held:]
        return Piece(text[:held], 1, finish, logprob)


def _make_detokenizer(tokenizer: Any, *, continues: bool) -> Any:
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer

    detokenizer = tokenizer.detokenizer
    if continues or isinstance(detokenizer, BPEStreamingDetokenizer):
        for token in anchor_tokens(tokenizer):
            detokenizer.add_token(token)
        _ = detokenizer.last_segment  # reading it marks the text as returned
    return detokenizer
