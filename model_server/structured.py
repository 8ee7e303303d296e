"""Answers in a form that was asked for, JSON by a schema: at each place, only tokens that may stand there can be chosen.

This is llguidance's work, which need not be installed.  Schemas come from clients: their size and depth are bounded, and what
llguidance may spend on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..registry.runtime.errors import Refusal, sentence

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

MAX_BYTES, MAX_DEPTH, MAX_NODES = 32 << 10, 32, 1000
"""Of a schema: bytes of its JSON, how deep it is nested, and objects and lists in it.  The largest takes a third of a second."""

FORM: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is spaced: a small model would write spaces until its answer is full."""


class Constraint:
    """Lets one answer have only what a grammar allows; it is one of mlx-lm's processors of logits.

    Attributes:
        failed: the grammar took more than it may, so that the answer cannot go on.
    """

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher.deep_copy(), list(ends)
        self._begun = self.failed = False

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return logits of which those of tokens that may not come next are minus infinity."""
        import mlx.core as mx

        if self._begun and not self._matcher.is_stopped():
            self._matcher.consume_token(int(tokens[-1].item()))
        self._begun = True
        allowed = np.zeros(logits.shape[-1], np.bool_)
        if self._matcher.is_stopped():
            allowed[self._ends] = True
        else:
            bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
            width = min(len(bits), len(allowed))
            allowed[:width] = bits[:width]
        if self._matcher.is_error():
            self.failed = True
            return logits
        return mx.where(mx.array(allowed)[None], logits, -mx.inf)


class Grammars:
    """Makes constraints for one tokenizer; to be used by one thread."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._given, self._vocabulary = tokenizer, vocabulary
        self._tokenizer: LLTokenizer | None = None

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        return sorted(int(token) for token in self._given.eos_token_ids)

    def of_schema(self, schema: Mapping[str, Any], field: str) -> LLMatcher:
        """Return what an answer must match to be JSON by a schema."""
        text = checked_schema(schema, field)
        tokenizer = self._ready(field)
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={**FORM})
        except ValueError as error:
            raise Refusal(
                400, f"{field}: the schema cannot be used: {sentence(error)}", param=field
            ) from error
        return self._matcher(tokenizer, grammar, field)

    def of_lark(self, grammar: str, field: str) -> LLMatcher:
        """Return what an answer must match by a grammar of llguidance's; schemas in it have been checked."""
        tokenizer = self._ready(field)
        from llguidance import LLMatcher

        return self._matcher(tokenizer, LLMatcher.grammar_from_lark(grammar), field)

    def _matcher(self, tokenizer: LLTokenizer, grammar: str, field: str) -> LLMatcher:
        from llguidance import LLMatcher

        made = LLMatcher(tokenizer, grammar, limits=_limits(), log_level=0)
        if not made.is_error():
            # What it takes at the first token is known by this; and whether there is one.
            made.compute_bitmask()
        if made.is_error() or made.is_stopped():
            why = made.get_error().partition("\n")[0][:200] or "no answer can match it"
            raise Refusal(400, f"{field}: the schema cannot be used: {why}", param=field)
        return made

    def _ready(self, field: str) -> LLTokenizer:
        """Return the tokenizer as llguidance has it, which takes a second for a large vocabulary, the first time."""
        if self._tokenizer is None:
            try:
                from llguidance.hf import from_tokenizer
            except ImportError as error:
                raise Refusal(
                    400,
                    f"{field} needs llguidance, which this server does not have; install it: pip install llguidance",
                    param=field,
                    code="unsupported_value",
                ) from error
            try:
                self._tokenizer = from_tokenizer(
                    self._given._tokenizer, n_vocab=self._vocabulary, eos_token=self.ends
                )
            except ValueError as error:
                message = f"{field} is not supported with this model's tokenizer: {sentence(error)}"
                raise Refusal(400, message, param=field, code="unsupported_value") from error
        return self._tokenizer


def _limits() -> LLParserLimits:
    """Return what llguidance may spend on a grammar, in units of its own: some ten milliseconds for a token."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_items_in_row=2_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
    )


def checked_schema(schema: Mapping[str, Any], field: str) -> str:
    """Return a schema's JSON."""
    for count, (depth, node) in enumerate(_nodes(schema), 1):
        if depth > MAX_DEPTH:
            raise Refusal(400, f"{field}: the schema is nested deeper than {MAX_DEPTH} times", param=field)
        if count > MAX_NODES:
            raise Refusal(
                400, f"{field}: the schema has more than {MAX_NODES} objects and lists", param=field
            )
        reference = node.get("$ref") if isinstance(node, dict) else None
        if isinstance(reference, str) and not reference.startswith("#"):
            raise Refusal(400, f"{field}: the schema may refer to its own parts only (#/...)", param=field)
    text = json.dumps(schema)
    if len(text) > MAX_BYTES:
        raise Refusal(400, f"{field}: the schema has more than {MAX_BYTES} bytes", param=field)
    return text


def _nodes(schema: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yield the objects and lists in a schema, each with its depth; not by recursion, which a client could exhaust."""
    waiting: list[tuple[int, Any]] = [(1, schema)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        children = node.values() if isinstance(node, dict) else node
        waiting += [(depth + 1, child) for child in children if isinstance(child, dict | list)]
