"""One answer in progress: what is asked for, and its text as the tokens come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .logprobs import TokenLogprob, anchor_tokens, measure
from .sampling import Sampling, make_processors
from .stopping import StopWords
from .structured import Constraint
from .switching import Resident

Finish = Literal["stop", "length"]
End = Literal["stop", "length", "tool_calls", "error"]


@dataclass(eq=False, slots=True)
class Job:
    """One answer to be written.

    Attributes:
        resident: the adapter, None for the base.
        tokens: the prompt.
        max_tokens: of the answer.
        sampling: how tokens are chosen.
        stop: strings that end the answer.
        receiver: whatever the engine's `post` needs to hand the text on.
        owner: whose share it uses.
        continues: the answer continues the prompt's text, as in `/v1/completions`.
        alternatives: of how many of the likeliest tokens to tell the probability at each; None for not even the chosen one's.
        constraint: what the answer must match, if that was asked for.
        cancelled: nobody wants the answer any more.
        may_keep: tells whether what was read for it may be kept for later prompts of its owner.
        reused: how many tokens of the prompt had been read before; known when the first piece comes.
    """

    resident: Resident | None
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    receiver: Any = None
    owner: str = ""
    continues: bool = False
    alternatives: int | None = None
    constraint: Constraint | None = None
    cancelled: bool = False
    may_keep: Callable[[], bool] = lambda: True
    reused: int = 0

    def processors(self) -> list[Callable[[Any, Any], Any]]:
        """Return what changes the logits before a token is chosen; the constraint has the last word."""
        made = make_processors(self.sampling)
        return made if self.constraint is None else [*made, self.constraint]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a job has got further.

    Attributes:
        text: new text, perhaps none.
        tokens: how many new tokens.
        calls: of functions, in OpenAI's form, that have come to their end.
        logprob: how likely the new token was, if that was asked for and it is part of the text.
        finish: why it has ended, "error" when generation failed; None while it goes on.
    """

    text: str
    tokens: int
    finish: End | None = None
    logprob: TokenLogprob | None = None
    calls: tuple[Mapping[str, Any], ...] = ()


class Writing:
    """The text of one answer, made from its tokens.

    Attributes:
        job: whose answer it is.
        tokens: how many there were.
        reading: the prompt is still being read.
    """

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job, self.tokens, self.reading = job, 0, True
        self._tokenizer, self._detokenizer = tokenizer, _make_detokenizer(tokenizer, continues=job.continues)
        self._stop = StopWords(job.stop)

    def add(self, token: int, finish: Finish | None, logprobs: Any) -> Piece:
        """Return what a token adds.

        Args:
            token: the new one.
            finish: "stop" for a token that ends a text and is none of it.
            logprobs: an array with a value for each token of the vocabulary.
        """
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
    """Return a detokenizer for one answer.

    mlx-lm's detokenizers drop a space before the first word, but keep it after other text.  In a chat with a SentencePiece
    tokenizer it is dropped, as by the tokenizer's `decode`: there the space only marks a word.
    """
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer

    detokenizer = tokenizer.detokenizer
    if continues or isinstance(detokenizer, BPEStreamingDetokenizer):
        for token in anchor_tokens(tokenizer):
            detokenizer.add_token(token)
        _ = detokenizer.last_segment  # reading it marks the text as returned
    return detokenizer
