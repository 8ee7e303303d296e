"""Text that every database can keep, with no NUL and no half of a surrogate pair, and text that is safe to show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")


def is_keepable(value: Any) -> bool:
    """Tell whether all text in a value from JSON, keys included, can be recorded."""
    return not any(_UNKEEPABLE.search(text) for text in _texts(value))


def visible(text: str) -> str:
    """Return text with control and direction characters as escapes; its lines stay."""
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
