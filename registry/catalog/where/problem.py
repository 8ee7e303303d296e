"""What is wrong with an expression, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from ...errors import BadInputError

_AROUND = 60


class WhereError(BadInputError):
    """An expression cannot be understood.

    Attributes:
        position: of the first character that is not understood, from 0.
        excerpt: two lines, the expression around that place and a caret under it.
    """

    code: ClassVar[str] = "bad_expression"

    def __init__(self, message: str, expression: str, position: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.position = position
        self.excerpt = excerpt(expression, position)


def excerpt(expression: str, position: int) -> tuple[str, str]:
    """Return the expression around a place, printable and on one line, and a line with a caret under the place."""
    start, end = max(0, position - _AROUND), position + _AROUND
    before, after = _plain(expression[start:position]), _plain(expression[position:end])
    return (
        ("..." if start else "") + before + after + ("..." if end < len(expression) else ""),
        " " * (len(before) + 3 * bool(start)) + "^",
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return a question that names what is spelled most like a word, None if nothing is."""
    close = difflib.get_close_matches(word[:100].casefold(), list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


def _plain(text: str) -> str:
    # One column for each character, so that the caret stands where it should.
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
