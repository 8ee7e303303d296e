"""An expression cut into words, numbers, dates, texts and signs, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from .problem import WhereError

LENGTH = 4000
"""Characters of an expression."""

Kind = Literal["word", "number", "date", "text", "sign", "end"]

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9:.]+(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?(?![0-9A-Za-z_]))
    | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[A-Za-z]*(?![0-9A-Za-z_]))
    | (?P<word>[A-Za-z_*?][A-Za-z0-9_*?]*(?:[.:@-][A-Za-z0-9_*?]+)*)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<sign><=|>=|!=|==|!~|[=<>~(),])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One piece.

    Attributes:
        kind: what it is; `end` follows the last.
        text: as written, of a text what is within the quotes, with escapes taken out.
        start: its place in the expression.
    """

    kind: Kind
    text: str
    start: int


def tokenize(expression: str) -> list[Token]:
    """Cut an expression into tokens, the last of which is an `end`.

    Raises:
        WhereError: it is too long, or a character has no meaning.
    """
    if len(expression) > LENGTH:
        raise WhereError(
            f"the expression has {len(expression)} characters, more than {LENGTH}", expression, LENGTH
        )
    tokens, place = [], 0
    while place < len(expression):
        match = _TOKEN.match(expression, place)
        if match is None:
            raise _strange(expression, place)
        kind, text = str(match.lastgroup), match.group()
        if kind == "text":
            text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        if kind != "space":
            tokens.append(Token(cast(Kind, kind), text, place))
        place = match.end()
    return [*tokens, Token("end", "", len(expression))]


def _strange(expression: str, place: int) -> WhereError:
    if expression[place] in "\"'":
        return WhereError("this text has no closing quote", expression, place)
    if expression[place].isdigit():
        return WhereError(
            "this is neither a number nor a date", expression, place, hint="put a text in quotes"
        )
    return WhereError(
        f"{expression[place]!r} has no meaning here", expression, place, hint="put a text in quotes"
    )
