"""One answer in progress: what is asked for, and its text as the tokens come."""

from __future__ import annotations

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
    """One answer to be written."""

    resident: Resident | None  # the adapter, None for the base
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    receiver: Any = None  # called with each piece
    owner: str = ""  # whose share it uses
    continues: bool = False  # the answer continues the prompt's text, as in `/v1/completions`
    # of how many of the likeliest tokens to tell the probability at each; None for not even the chosen one's
    alternatives: int | None = None
    constraint: Constraint | None = None  # what the answer must match, if that was asked for
    cancelled: bool = False  # the client does not want the answer any more
    # tells whether what was read for it may be kept for later prompts of its owner
    may_keep: Callable[[], bool] = lambda: True
    reused: int = 0  # how many tokens of the prompt had been read before; known when the first piece comes

    def processors(self) -> list[Callable[[Any, Any], Any]]:
        """Return what changes the logits before a token is chosen; the constraint has the last word."""
        made = make_processors(self.sampling)
        return made if self.constraint is None else [*made, self.constraint]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a job has got further."""

    text: str
    tokens: int
    finish: End | None = None
    logprob: TokenLogprob | None = None
    calls: tuple[Mapping[str, Any], ...] = ()


class RunningJob:
    """The text of one answer, made from its tokens."""

    def __init__(self, job: Generation, tokenizer: Any) -> None:
        self.job, self.tokens, self.reading = job, 0, True
        self._tokenizer, self._detokenizer = tokenizer, _make_detokenizer(tokenizer, continues=job.continues)
        self._stop = StopWords(job.stop)

    def add(self, token: int, finish: Finish | None, logprobs: Any) -> Piece:
        """Return what a token adds."""
        self.tokens += 1
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
    """Text passes through, up to the first stop string.

    What could be the beginning of one is held back until it is known.  The law: whatever pieces a text comes in, what is
    let through in all is the text before the stop string that is complete first, or all of it if there is none.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = tuple(word for word in words if word)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; return what is certain by now.  After a stop string, `found` is set and nothing comes."""
        if self.found or not self._words:
            return "" if self.found else text
        held = self._held + text
        matches = [(place + len(word), place) for word in self._words if (place := held.find(word)) >= 0]
        if matches:
            self.found, self._held = True, ""
            return held[: min(matches)[1]]
        # How much of a word's beginning is the text's end.
        keep = max(
            length for word in self._words for length in range(len(word)) if held.endswith(word[:length])
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """Return what was held back for nothing."""
        held, self._held = self._held, ""
        return held
