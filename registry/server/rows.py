"""Whose rows a pass over the base has: one adapter's, another's, nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Numbers = tuple[int | None, ...]
"""Of each row the number of its adapter, None for the base."""


class RowsError(RuntimeError):
    """A pass has other rows than were announced, or a layer gets something in which no rows are to be seen."""


class Rows:
    """What layers with several adapters go by while a pass is built; to be used by one thread.

    Attributes:
        numbers: of the pass in progress.
        length: how many tokens of each row it has.
        order: by which experts' inputs were sorted, where that was done.
    """

    def __init__(self) -> None:
        self.numbers: Numbers = ()
        self.length = 0
        self.order: Any = None

    @contextmanager
    def of(self, numbers: Numbers) -> Iterator[None]:
        """Let the passes that are built within have these rows."""
        before, self.numbers = self.numbers, numbers
        try:
            yield
        finally:
            self.numbers = before

    def require(self, count: int, length: int) -> None:
        """Take in the shape of a pass.

        Raises:
            RowsError: nobody has said whose rows these are.
        """
        if count != len(self.numbers):
            raise RowsError(f"a pass has {count} rows, and {len(self.numbers)} are known")
        self.length = length
