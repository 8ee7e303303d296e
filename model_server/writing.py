"""One running answer: its request, and its text from the tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..registry.runtime.switching import Resident
from .sampling import Sampling, TokenLogprob, anchor_tokens, make_processors, measure
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

    def processors(self) -> list[Callable[[Any, Any], Any]]:
        """Return the functions that change the logits before a token is chosen; the constraint is last."""
        made = make_processors(self.sampling)
        return made if self.constraint is None else [*made, self.constraint]


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
        self._stop = StopWords(job.stop)

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
        text = self._stop.push(self._detokenizer.last_segment)
        if self._stop.found:
            return Piece(text, 1, "stop", logprob)
        return Piece(text + self._stop.finish() if finish else text, 1, finish, logprob)


def _make_detokenizer(tokenizer: Any, *, continues: bool) -> Any:
    """Return a detokenizer for one answer."""
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer

    detokenizer = tokenizer.detokenizer
    if continues or isinstance(detokenizer, BPEStreamingDetokenizer):
        for token in anchor_tokens(tokenizer):
            detokenizer.add_token(token)
        _ = detokenizer.last_segment  # reading it marks the text as returned
    return detokenizer


class StopWords:
    """Passes text on up to the stop string that is complete first; a possible beginning of one is held back."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words, self._held = words, ""
        self.found = False

    def push(self, text: str) -> str:
        """Return the text that can be passed on; after a stop string, `found` is set and the text is empty."""
        if self.found or not self._words:
            return "" if self.found else text
        held = self._held + text
        matches = [(place + len(word), place) for word in self._words if (place := held.find(word)) >= 0]
        if matches:
            self.found, self._held = True, ""
            return held[: min(matches)[1]]
        # The longest beginning of a stop string at the end of the text.
        keep = max(
            length for word in self._words for length in range(len(word)) if held.endswith(word[:length])
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """Return the text that was held back."""
        held, self._held = self._held, ""
        return held
