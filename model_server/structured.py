"""Structured answers: JSON by a schema, and calls of functions, with llguidance; clients' schemas are bounded."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..registry.runtime.errors import invalid, sentence
from .schemas import Tool

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

UNSUPPORTED = "unsupported_value"  # OpenAI's code

MAX_BYTES, MAX_DEPTH, MAX_NODES = 32 << 10, 32, 1000
"""Of a schema: bytes of its JSON, depth, objects and lists.  The largest compiles in a third of a second."""

FORM: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Fixed whitespace: small models would write spaces without end."""


class Constraint:
    """A logits processor that allows only the tokens of a grammar, for one answer."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher.deep_copy(), list(ends)
        self._begun = self.failed = False

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return logits with minus infinity for tokens that may not come next."""
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
    """Makes matchers for one tokenizer; for one thread."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._ll_tokenizer: LLTokenizer | None = None

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        return sorted(int(token) for token in self._tokenizer.eos_token_ids)

    def of_schema(self, schema: Mapping[str, Any], field: str) -> LLMatcher:
        """Return the matcher of JSON by a schema."""
        text = checked_schema(schema, field)
        self._ready(field)
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={**FORM})
        except ValueError as error:
            raise invalid(field, f"the schema cannot be used: {sentence(error)}") from error
        return self._matcher(grammar, field)

    def of_lark(self, grammar: str, field: str) -> LLMatcher:
        """Return the matcher of a grammar of llguidance's, whose schemas are checked."""
        self._ready(field)
        from llguidance import LLMatcher

        return self._matcher(LLMatcher.grammar_from_lark(grammar), field)

    def _matcher(self, grammar: str, field: str) -> LLMatcher:
        from llguidance import LLMatcher

        made = LLMatcher(self._ready(field), grammar, limits=_limits(), log_level=0)
        if not made.is_error():
            # Its errors and limits show at the first token.
            made.compute_bitmask()
        if made.is_error() or made.is_stopped():
            why = made.get_error().partition("\n")[0][:200] or "no answer can match it"
            raise invalid(field, f"the schema cannot be used: {why}")
        return made

    def _ready(self, field: str) -> LLTokenizer:
        """Return llguidance's form of the tokenizer, which takes a second to make."""
        if self._ll_tokenizer is None:
            try:
                from llguidance.hf import from_tokenizer
            except ImportError as error:
                why = "this server lacks llguidance; install it: pip install llguidance"
                raise invalid(field, why, UNSUPPORTED) from error
            inner = self._tokenizer._tokenizer
            try:
                self._ll_tokenizer = from_tokenizer(inner, n_vocab=self._vocabulary, eos_token=self.ends)
            except ValueError as error:
                why = f"not supported with this model's tokenizer: {sentence(error)}"
                raise invalid(field, why, UNSUPPORTED) from error
        return self._ll_tokenizer


def _limits() -> LLParserLimits:
    """Return llguidance's limits, in its own units: tens of milliseconds for a token."""
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
    """Return a schema's JSON; refuse a large, deep or external one."""
    for count, (depth, node) in enumerate(_nodes(schema), 1):
        if depth > MAX_DEPTH:
            raise invalid(field, f"the schema is nested deeper than {MAX_DEPTH} times")
        if count > MAX_NODES:
            raise invalid(field, f"the schema has more than {MAX_NODES} objects and lists")
        reference = node.get("$ref") if isinstance(node, dict) else None
        if isinstance(reference, str) and not reference.startswith("#"):
            raise invalid(field, "the schema may refer to its own parts only (#/...)")
    text = json.dumps(schema)
    if len(text) > MAX_BYTES:
        raise invalid(field, f"the schema has more than {MAX_BYTES} bytes")
    return text


def _nodes(schema: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yield the objects and lists in a schema with their depths, without recursion."""
    waiting: list[tuple[int, Any]] = [(1, schema)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        children = node.values() if isinstance(node, dict) else node
        waiting += [(depth + 1, child) for child in children if isinstance(child, dict | list)]


def forced_grammar(tokenizer: Any, tools: Sequence[Tool]) -> str:
    """Return the grammar of one call of one of the tools."""
    start, end = tokenizer.tool_call_start, tokenizer.tool_call_end
    if not str(getattr(tokenizer.tool_parser, "__module__", "")).endswith(".json_tools"):
        why = "it must be auto or none with this model, whose calls are not JSON"
        raise invalid("tool_choice", why, UNSUPPORTED)
    calls = []
    for tool in tools:
        parameters = tool.function.parameters or {"type": "object"}
        checked_schema(parameters, "tools")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    if len(calls) > 1 and any("$ref" in json.dumps(call) for call in calls):
        raise invalid("tools", "with tool_choice, parameters of several tools cannot use $ref")
    calls[0] |= {key: value for key, value in parameters.items() if key in ("$defs", "definitions")}
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    # llguidance's grammars quote texts, but not single special tokens.
    start, end = (
        text
        if text[:1] + text[-1:] == "<>" and len(tokenizer.encode(text, add_special_tokens=False)) == 1
        else json.dumps(text)
        for text in (start, end)
    )
    return f'start: {start} "\\n" %json {json.dumps(schema)} "\\n" {end}\n'


class CallReader:
    """Separates the calls in one answer from its text."""

    def __init__(self, tokenizer: Any, tools: Sequence[Tool]) -> None:
        from mlx_lm.generate import TextStateMachine

        self._start, self._end = str(tokenizer.tool_call_start), str(tokenizer.tool_call_end or "")
        self._parse = tokenizer.tool_parser
        self._tools = [tool.model_dump() for tool in tools]
        ends = [(self._end, "text")] if self._end else []
        self._machine = TextStateMachine({"text": [(self._start, "call")], "call": ends})
        self._state = self._machine.make_state("text")
        self._call: str | None = None

    def push(self, text: str, *, last: bool) -> tuple[str, list[dict[str, object]]]:
        """Return the text of a piece, and the calls that it completes; an invalid call stays text."""
        self._state, segments = self._machine.split(self._state, text)
        if last:
            self._state, held, state = self._machine.flush(self._state)
            segments.append((state, held))
        plain = ""
        calls: list[dict[str, object]] = []
        for state, part in segments:
            if state == "call":
                self._call = (self._call or "") + part
            else:
                if self._call is not None:
                    unread, parsed_calls = self._read(self._end)
                    plain, calls = plain + unread, calls + parsed_calls
                plain += part
        if last and self._call is not None:
            # Some formats have no end mark; in others, the call is incomplete.
            unread, parsed_calls = self._read("") if not self._end else (self._start + self._call, [])
            plain, calls = plain + unread, calls + parsed_calls
        return plain, calls

    def _read(self, end: str) -> tuple[str, list[dict[str, object]]]:
        text, self._call = self._call or "", None
        try:
            parsed = self._parse(text, self._tools)
            parsed_calls = parsed if isinstance(parsed, list) else [parsed]
            return "", [_call(parsed_call) for parsed_call in parsed_calls]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError):
            return self._start + text + end, []


def _call(parsed: Mapping[str, Any]) -> dict[str, object]:
    name, arguments = parsed["name"], parsed["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        raise TypeError("a call has a name and arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    identity = parsed.get("id") or secrets.token_hex(5)[:9]  # Mistral's templates take no other form
    return {"id": str(identity), "type": "function", "function": {"name": name, "arguments": text}}
