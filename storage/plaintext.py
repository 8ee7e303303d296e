"""Check text that every database can store (no NUL, no lone surrogate), and escape text that is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from os import PathLike
from typing import Any

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")


def is_keepable(value: Any) -> bool:
    """Tell whether all text in a value from JSON, keys included, can be recorded."""
    return not any(_UNKEEPABLE.search(text) for text in _texts(value))


def visible(text: str) -> str:
    """Return text with control and direction characters escaped, except line breaks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def typed(place: str | PathLike[str]) -> str:
    """Return a path as it is typed in a shell: quoted where it has to be, and never an option."""
    text = str(place)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
