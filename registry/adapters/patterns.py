"""Regular expressions from untrusted files, matched in bounded time.

Python's own matcher takes exponential time on some of PEFT's patterns (`(a+)+b`).  Here each part maps the places where it may
begin to those where it may end, and a budget bounds the steps.  Why no library does it: decision 35.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Python's own parser, so that an expression means what it means to PEFT.
_parser: Any = importlib.import_module("re._parser")
_code: Any = importlib.import_module("re._constants")

MAX_PATTERN = 4096
_STEPS = 200_000
_REPEATS = 1000
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _code.CATEGORY_DIGIT: str.isdecimal,
    _code.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    _code.CATEGORY_SPACE: str.isspace,
    _code.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    _code.CATEGORY_WORD: lambda char: _is_word(char),
    _code.CATEGORY_NOT_WORD: lambda char: not _is_word(char),
}

_NAME = re.compile(r"\(\.\*\\\.\)\?\([\w.]+\)|[\w.]+", re.ASCII)


class PatternError(ValueError):
    """An expression that is malformed, or uses what is not matched here: references, look-around, flags."""


@dataclass(slots=True)
class Budget:
    """What all matches of one configuration may take together: thousands of slow expressions are no better than one."""

    left: int = 1_500_000  # steps

    def take(self, steps: int) -> None:
        """Use some up."""
        self.left -= steps
        if self.left < 0:
            raise PatternError("expressions that take too long together")


def full_match(pattern: str, text: str, budget: Budget | None = None) -> bool:
    """Tell whether `re.fullmatch(pattern, text)` finds a match."""
    budget = budget or Budget()
    if _NAME.fullmatch(pattern):
        # A name, after any others or alone: nothing that Python's own matcher is slow with.
        budget.take(1)
        return re.fullmatch(pattern, text) is not None
    matcher = _Matcher(text)
    try:
        return len(text) in matcher.ends(_parse(pattern), {0})
    finally:
        budget.take(_STEPS - matcher.left + 20)  # and the fixed cost of a match


@lru_cache(maxsize=256)
def _parse(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"an expression of {len(pattern)} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"a malformed expression: {error}") from None
    if parsed.state.flags & ~re.UNICODE.value:
        raise PatternError("flags in an expression")
    return parsed


class _Matcher:
    """Matching of one text; `ends` is the whole of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.left = _STEPS

    def ends(self, items: Iterable[tuple[Any, Any]], starts: set[int]) -> set[int]:
        """Return where a sequence of parts may end that begins at one of `starts`."""
        for operation, argument in items:
            starts = self._part(operation, argument, starts)
            if not starts:
                break
        return starts

    def _part(self, operation: Any, argument: Any, starts: set[int]) -> set[int]:
        self.left -= 1 + len(starts)
        if self.left < 0:
            raise PatternError("an expression that takes too long")
        if operation in (_code.MAX_REPEAT, _code.MIN_REPEAT):
            least, most, inner = argument
            return self._repeat(least, most, inner, starts)
        if operation is _code.SUBPATTERN:
            _, added, removed, inner = argument
            if added or removed:
                raise PatternError("flags in an expression")
            return self.ends(inner, starts)
        if operation is _code.BRANCH:
            return set().union(*(self.ends(branch, starts) for branch in argument[1]))
        if operation is _code.AT:
            return {place for place in starts if self._at(argument, place)}
        inside = (place for place in starts if place < len(self._text))
        return {place + 1 for place in inside if _fits(operation, argument, self._text[place])}

    def _repeat(self, least: int, most: int, inner: Any, starts: set[int]) -> set[int]:
        if least > _REPEATS:
            raise PatternError("an expression with too many repetitions")
        for _ in range(least):
            starts = self.ends(inner, starts)
        positions, fresh, rounds = set(starts), starts, least
        while fresh and rounds < most:
            fresh = self.ends(inner, fresh) - positions
            positions |= fresh
            rounds += 1
        return positions

    def _at(self, where: Any, place: int) -> bool:
        if where in (_code.AT_BEGINNING, _code.AT_BEGINNING_STRING):
            return place == 0
        if where in (_code.AT_END, _code.AT_END_STRING):
            return place == len(self._text)
        before = place > 0 and _is_word(self._text[place - 1])
        after = place < len(self._text) and _is_word(self._text[place])
        if where in (_code.AT_BOUNDARY, _code.AT_NON_BOUNDARY):
            return (before != after) == (where is _code.AT_BOUNDARY)
        raise PatternError(f"{where} in an expression")


def _fits(operation: Any, argument: Any, char: str) -> bool:
    if operation is _code.ANY:
        return char != "\n"
    if operation is _code.LITERAL:
        return bool(ord(char) == argument)
    if operation is _code.NOT_LITERAL:
        return bool(ord(char) != argument)
    if operation is _code.RANGE:
        return bool(argument[0] <= ord(char) <= argument[1])
    if operation is _code.CATEGORY and argument in _CATEGORIES:
        return _CATEGORIES[argument](char)
    if operation is _code.IN:
        negated = bool(argument) and argument[0][0] is _code.NEGATE
        items = argument[1 if negated else 0 :]
        return any(_fits(inner, value, char) for inner, value in items) != negated
    raise PatternError(f"{str(operation).lower()} in an expression")


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


class Endings:
    """Words, to be found at the ends of paths; by their lengths, for there may be very many of either in a stranger's file."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._places = {word: place for place, word in enumerate(dict.fromkeys(words))}
        self._lengths = sorted({len(word) for word in self._places})

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __bool__(self) -> bool:
        return bool(self._places)

    def of(self, path: str) -> str | None:
        """Return the first of the words that a path ends with, None without one."""
        ends = (path[len(path) - length :] for length in self._lengths if length <= len(path))
        matching_ends = [end for end in ends if end in self._places]
        return min(matching_ends, key=self._places.__getitem__, default=None)

    def within(self, module: str) -> set[str]:
        """Return all words that the path of a module, or of a module around it, ends with."""
        parts = module.split(".")
        paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
        return {
            end
            for path in paths
            for length in self._lengths
            if length <= len(path) and (end := path[len(path) - length :]) in self._places
        }
