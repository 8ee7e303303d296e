"""Many numbers of rows, a few hundred at a time: a database takes only so many parameters in one query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Value = TypeVar("Value")

BATCH = 500


def batches(values: Iterable[Value], size: int = BATCH) -> Iterator[list[Value]]:
    """Yield the values, each once and in their order, in lists of at most `size`."""
    waiting = iter(dict.fromkeys(values))
    while batch := list(islice(waiting, size)):
        yield batch
