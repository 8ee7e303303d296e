"""Check text that every database can store (no NUL, no lone surrogate), and escape text that is shown."""

from __future__ import annotations

import re
import shlex
from os import PathLike
from typing import Any

from .jsonfile import layers

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")


def is_keepable(value: Any) -> bool:
    """Tell whether all text in a value from JSON, keys included, can be recorded."""
    nodes = (node for layer in layers(value) for node in layer)
    texts = (text for node in nodes for text in (node if isinstance(node, dict) else (node,)))
    return not any(isinstance(text, str) and _UNKEEPABLE.search(text) for text in texts)


def visible(text: str) -> str:
    """Return text with control and direction characters escaped, except line breaks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def typed(place: str | PathLike[str]) -> str:
    """Return a path as it is typed in a shell: quoted where it has to be, and never an option."""
    text = str(place)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
