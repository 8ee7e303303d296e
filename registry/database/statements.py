"""The statements of an SQLite schema, as far as they matter here: what in them is computed, and would be by whoever reads.

SQLite keeps each as its text, and runs what stands in it: a view for a table, a generated column, an index on an expression,
a trigger.  The text is hostile where the file is, so it is taken apart word by word and not searched.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache

from .guards import guards_of

_WORD = re.compile(
    r"""\s+|--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|\w+|.""",
    re.DOTALL,
)
_CLAUSE = frozenset({"as", "generated", "collate"})
"""Words of a column that is computed, or compared by something of the file's own choice."""


def words(statement: str) -> list[str]:
    """Return the words of a statement in small letters, names without their quotes; texts keep theirs."""
    found = []
    for match in _WORD.finditer(statement):
        word = match.group()
        if word.isspace() or word.startswith(("--", "/*")):
            continue
        if len(word) > 1 and word[0] in '"`[':
            word = word[1:-1]
        found.append(word if word.startswith("'") else word.casefold())
    return found


def strange_part(name: str, statement: str) -> str | None:
    """Return what of a statement computes something or is no statement of ours at all; None where there is nothing.

    Args:
        name: what the schema says that it makes.
        statement: its text.
    """
    said = words(statement)
    match said:
        case ["create", "table", called, "(", *body] if called == name.casefold():
            if computed := _CLAUSE.intersection(body):
                return f"a column with {min(computed).upper()}"
            if any(pair == ("default", "(") for pair in itertools.pairwise(body)):
                return "a column with an expression for its default"
            return None
        case ["create", "index", called, "on", _, *body] | [
            "create",
            "unique",
            "index",
            called,
            "on",
            _,
            *body,
        ]:
            return None if called == name.casefold() and _plain_list(body) else "an index on an expression"
        case ["create", "trigger", *_]:
            return None if tuple(said) in _guards() else "a trigger of its own"
        case ["create", "view", *_]:
            return "a view"
        case ["create", "virtual", *_]:
            return "a virtual table"
    return "a statement that makes something else than it says"


@cache
def _guards() -> frozenset[tuple[str, ...]]:
    """Return the triggers of our own, in words."""
    return frozenset(tuple(words(guard.definition)) for guard in guards_of("sqlite").values())


def checks(statement: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each CHECK of a table, without the brackets around them."""
    said = words(statement)
    for start, pair in enumerate(itertools.pairwise(said)):
        if pair == ("check", "("):
            yield _within(said[start + 2 :])


def _within(said: Sequence[str]) -> tuple[str, ...]:
    depth = 1
    for number, word in enumerate(said):
        depth += (word == "(") - (word == ")")
        if not depth:
            return tuple(said[:number])
    return tuple(said)


def _plain_list(body: Sequence[str]) -> bool:
    """Tell whether this is a list of columns in brackets, and nothing after it."""
    if len(body) < 3 or body[0] != "(" or body[-1] != ")":
        return False
    return all(re.fullmatch(r"\w+", word) or word == "," for word in body[1:-1])
