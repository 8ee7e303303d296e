"""Untrusted JSON: bounded, without duplicate keys, NaN or absurd numbers and nesting."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import FormatError
from .failures import opened

MAX_BYTES = 16 << 20
MAX_VALUES = 500_000
"""Values in one document: what is parsed takes up to thirty times the memory of its text."""
MAX_DEPTH = 64
MAX_DIGITS = 40

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")
_TOKEN = re.compile(rb'"[^"]*"?|([,\[{])')
"""Matches a string, or the character before a value, in a text without escaped quotes."""


def holds_more_than(data: bytes, most: int) -> bool:
    """Return whether a JSON text holds more than `most` values, without parsing it: commas and brackets count them."""
    # This upper bound also counts commas and brackets in strings; it is quick, and enough for nearly every document.
    if data.count(b",") + data.count(b"[") + data.count(b"{") <= most:
        return False
    values = 0
    # Remove escaped backslashes first: a quote after one ends its string.
    tokens = _TOKEN.finditer(data.replace(b"\\\\", b"").replace(b'\\"', b""))
    for number, token in enumerate(tokens):
        values += token.lastindex is not None
        # A valid document has at most two strings to a value: its key and itself.
        if values > most or number > 3 * most + 2:
            return True
    return False


def parse_json(
    data: bytes, subject: str, *, most: int = MAX_VALUES, deepest: int = MAX_DEPTH, constants: Any = None
) -> Any:
    """Parse strict JSON (RFC 8259) in UTF-8; `constants` returns the values of `NaN`, `Infinity` and `-Infinity`."""
    if holds_more_than(data, most):
        raise FormatError(f"{subject} holds more than {most:,} values")

    def constant(name: str) -> Any:
        if constants is None or (value := constants(name)) is None:
            raise FormatError(f"{subject} holds {name}, which JSON does not have")
        return value

    def whole(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise FormatError(f"{subject} holds an integer of {len(text)} digits")
        return int(text)

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise FormatError(f"{subject} holds a number that is too large")
        return number

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise FormatError(f"{subject} has a key twice in one object")
        return result

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=constant,
            parse_int=whole,
            parse_float=finite,
        )
    except UnicodeDecodeError as error:
        raise FormatError(f"{subject} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"{subject} is not JSON: {error.msg} at line {error.lineno}") from error
    except RecursionError as error:
        raise FormatError(f"{subject} is nested too deep") from error
    if sum(1 for _ in layers(value)) > deepest + 1:
        raise FormatError(f"{subject} is nested too deep")
    return value


def layers(value: Any) -> Iterator[list[Any]]:
    """Yield the values of a document by their depth."""
    layer = [value]
    while layer:
        yield layer
        layer = [
            child
            for node in layer
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]


def is_keepable(value: Any) -> bool:
    """Tell whether every database can store all text in a value, keys included: no NUL, no lone surrogate."""
    nodes = (node for layer in layers(value) for node in layer)
    texts = (text for node in nodes for text in (node if isinstance(node, dict) else (node,)))
    return not any(isinstance(text, str) and _UNKEEPABLE.search(text) for text in texts)


def count_values(value: Any) -> int:
    """Return the number of values in a document, itself included."""
    return sum(map(len, layers(value)))


def read_object(
    path: Path, *, limit: int = MAX_BYTES, most: int = MAX_VALUES, constants: Any = None
) -> dict[str, Any]:
    """Read a JSON object from a file of at most `limit` bytes; `most` and `constants` as in `parse_json`."""
    with opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path.name} is larger than {limit >> 20} MiB")
    value = parse_json(data, path.name, most=most, constants=constants)
    if not isinstance(value, dict):
        raise FormatError(f"{path.name} is not a JSON object")
    return value


def read_config(path: Path) -> Any:
    """Read a model's `config.json`, with transformers' `{"__float__": "Infinity"}` for a bare `Infinity`."""
    return read_object(path, constants=lambda name: None if name == "NaN" else {"__float__": name})
