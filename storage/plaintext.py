"""Text that every database can keep: no NUL, which PostgreSQL refuses, and no half of a surrogate pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")


def is_keepable(value: Any) -> bool:
    """Tell whether all text in a value from JSON, keys included, can be recorded."""
    return not any(_UNKEEPABLE.search(text) for text in _texts(value))


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
