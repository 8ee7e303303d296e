"""Functions that a model may ask its client to call: what a request says of them, and calls found in an answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..registry.runtime.errors import Refusal
from .schemas import Tool
from .structured import checked_schema


def require_tools(tokenizer: Any) -> None:
    """Refuse tools for a model that has no form for calls."""
    if not tokenizer.has_tool_calling:
        raise Refusal(
            400,
            "tools are not supported by this model: its chat template has no form for calls that is known",
            param="tools",
            code="unsupported_value",
        )


def forced_grammar(tokenizer: Any, tools: Sequence[Tool]) -> str:
    """Return the grammar of an answer that is one call of one of some tools."""
    start, end = tokenizer.tool_call_start, tokenizer.tool_call_end
    if not str(getattr(tokenizer.tool_parser, "__module__", "")).endswith(".json_tools"):
        raise Refusal(
            400,
            "tool_choice can be auto or none with this model: its form of a call is not JSON",
            param="tool_choice",
            code="unsupported_value",
        )
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
        raise Refusal(
            400, "tools: with tool_choice, parameters of several tools cannot use $ref", param="tools"
        )
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    marks = [text if _is_one_token(tokenizer, text) else json.dumps(text) for text in (start, end)]
    return f'start: {marks[0]} "\\n" %json {json.dumps(schema)} "\\n" {marks[1]}\n'


def _is_one_token(tokenizer: Any, text: str) -> bool:
    """Tell whether a mark is a token of its own, which llguidance wants to be named as it is."""
    return (
        text.startswith("<")
        and text.endswith(">")
        and len(tokenizer.encode(text, add_special_tokens=False)) == 1
    )


class CallReader:
    """Takes the text of one answer as it comes, and takes the calls out of it."""

    def __init__(self, tokenizer: Any, tools: Sequence[Tool]) -> None:
        from mlx_lm.generate import TextStateMachine

        self._start, self._end = str(tokenizer.tool_call_start), str(tokenizer.tool_call_end or "")
        self._parse = tokenizer.tool_parser
        self._tools = [tool.model_dump() for tool in tools]
        ends = [(self._end, "text")] if self._end else []
        self._machine = TextStateMachine({"text": [(self._start, "call")], "call": ends})
        self._state = self._machine.make_state("text")
        self._call: str | None = None

    def push(self, text: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Return what of a piece of text is no call, and the calls that have come to their end with it.

        What cannot be read as a call stays text.
        """
        self._state, segments = self._machine.split(self._state, text)
        if last:
            self._state, held, state = self._machine.flush(self._state)
            segments.append((state, held))
        plain = ""
        calls: list[dict[str, Any]] = []
        for state, part in segments:
            if state == "call":
                self._call = (self._call or "") + part
            else:
                if self._call is not None:
                    unread, found = self._read(self._end)
                    plain, calls = plain + unread, calls + found
                plain += part
        if last and self._call is not None:
            # Some forms have no end mark; of the others, this is half a call.
            unread, found = self._read("") if not self._end else (self._start + self._call, [])
            plain, calls = plain + unread, calls + found
        return plain, calls

    def _read(self, end: str) -> tuple[str, list[dict[str, Any]]]:
        text, self._call = self._call or "", None
        try:
            parsed = self._parse(text, self._tools)
            found = parsed if isinstance(parsed, list) else [parsed]
            return "", [_call(each) for each in found]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError):
            return self._start + text + end, []


def _call(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call in OpenAI's form."""
    name, arguments = parsed["name"], parsed["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        raise TypeError("a call has a name and arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    identity = parsed.get("id") or f"call_{secrets.token_hex(12)}"
    return {"id": str(identity), "type": "function", "function": {"name": name, "arguments": text}}
