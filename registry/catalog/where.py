"""Expressions that choose adapters: `val_loss < 1 and (rank >= 8 or tag.team = "search")`.

    expression := conjunction {"or" conjunction}
    conjunction := negation {"and" negation}
    negation   := "not" negation | "(" expression ")" | test
    test       := FIELD ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~") VALUE
                | FIELD ["not"] "in" "(" VALUE {"," VALUE} ")"
                | FIELD "is" ["not"] "null"
                | FIELD                                            of a field that is true or false

The logic has two values.  A test of a field without a value is false; `not` negates, and `!=`, `!~` and `not in` are
short for it.  So every adapter matches exactly one of X and not X.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, and_, not_, or_

from ..errors import BadInputError, WhereError
from ..parsing import is_ago, nearest, parse_moment
from ..records.amendments import TAG
from ..records.evaluation import METRIC
from .where_fields import FIELDS, Value, WhereField, field_named

WORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})  # texts only in quotes
LENGTH = 4000  # characters of an expression

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
class Lexeme:
    """One piece."""

    kind: Kind
    text: str
    start: int


def tokenize(expression: str) -> list[Lexeme]:
    """Cut an expression into tokens, the last of which is an `end`."""
    if len(expression) > LENGTH:
        raise WhereError(f"the expression has more than {LENGTH} characters", expression, LENGTH)
    tokens, place = [], 0
    while place < len(expression):
        match = _TOKEN.match(expression, place)
        if match is None:
            hint: str | None = "put a text in quotes"
            if expression[place] in "\"'":
                message, hint = "this text has no closing quote", None
            elif expression[place].isdigit():
                message = "this is neither a number nor a date"
            else:
                message = f"{expression[place]!r} has no meaning here"
            raise WhereError(message, expression, place, hint=hint)
        kind, text = str(match.lastgroup), match.group()
        if kind == "text":
            text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        if kind != "space":
            tokens.append(Lexeme(cast(Kind, kind), text, place))
        place = match.end()
    return [*tokens, Lexeme("end", "", len(expression))]


PATTERN = 200  # characters of a pattern
STARS = 8  # stars in a pattern: the cost of matching grows with each
_NUMBER = re.compile(r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?P<unit>[A-Za-z]*)")
_SIZES = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
_LARGEST = 2**63 - 1
_EXPECTED = {
    "text": "a text",
    "choice": "a word",
    "whole": "a number",
    "real": "a number",
    "size": "a size, such as 5MB",
    "day": "a date, such as 2026-01-15 or 7d for seven days ago",
    "moment": "a date or a time, such as 2026-01-15T12:30Z or 7d for seven days ago",
    "flag": "true or false",
}


def read_value(field: WhereField, token: Lexeme, expression: str, *, part: bool = False) -> Value:
    """Return the value that a token means to a field."""
    value = _read(field, token)
    if value is None:
        reserved = token.kind == "word" and token.text.lower() in WORDS
        hint = "to look for what has no value, write: FIELD is null" if token.text.lower() == "null" else None
        if reserved and field.kind == "text" and hint is None:
            hint = f'put it in quotes: "{token.text}"'
        raise WhereError(f"expected {_EXPECTED[field.kind]}", expression, token.start, hint=hint)
    if field.choices and value not in field.choices and not part:
        hint = nearest(str(value), field.choices) or f"one of {', '.join(field.choices)}"
        raise WhereError(f"{str(value)[:60]!r} is not one of its values", expression, token.start, hint=hint)
    if part and (len(str(value)) > PATTERN or str(value).count("*") > STARS):
        raise WhereError(f"more than {PATTERN} characters or {STARS} stars", expression, token.start)
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise WhereError("this text holds NUL or half of a character", expression, token.start)
    return value


def _read(field: WhereField, token: Lexeme) -> Value | None:
    match field.kind:
        case "text" | "choice":
            # A number or a date is a text too, as one may be a tag's value; a word that means something else is not.
            is_text = token.kind in ("text", "number", "date") or (
                token.kind == "word" and token.text.lower() not in WORDS
            )
            return token.text if is_text else None
        case "flag":
            return {"true": True, "false": False}.get(token.text.lower()) if token.kind == "word" else None
        case "day":
            return _day(token)
        case "moment":
            return _moment(token)
    if token.kind != "number":
        return None
    if field.kind == "real":
        match = _NUMBER.fullmatch(token.text)
        value = float(token.text) if match and not match["unit"] else math.nan
        return value if math.isfinite(value) else None
    return _whole(token, _SIZES if field.kind == "size" else _COUNTS)


def _whole(token: Lexeme, units: dict[str, int]) -> int | float | None:
    """Return a number with its unit: whole where it is, so that what is compared is exact."""
    match = _NUMBER.fullmatch(token.text)
    unit = units.get(match["unit"].upper()) if match else None
    if match is None or unit is None:
        return None
    if re.fullmatch(r"[+-]?[0-9]{1,30}", match["number"]):
        whole = int(match["number"]) * unit
        return whole if abs(whole) <= _LARGEST else None
    value = float(match["number"]) * unit
    if not math.isfinite(value) or abs(value) > _LARGEST:
        return None
    return int(value) if value.is_integer() else value


def _day(token: Lexeme) -> date | None:
    if token.kind not in ("date", "text", "number"):
        return None
    if is_ago(token.text):
        moment = _ago(token.text)
        return moment and moment.date()
    try:
        return date.fromisoformat(token.text)
    except ValueError:
        return None


def _moment(token: Lexeme) -> date | datetime | None:
    if is_ago(token.text) and token.kind in ("text", "number"):
        return _ago(token.text)
    day = _day(token)
    if day is not None or token.kind not in ("date", "text"):
        return day
    try:
        moment = datetime.fromisoformat(token.text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _ago(text: str) -> datetime | None:
    try:
        return parse_moment(text)
    except BadInputError:  # before the first year
        return None


DEPTH = 50  # parentheses and `not` within each other
TESTS = 200  # tests in an expression, the values of an `in` counted one by one
_OPERATORS = {"==": "=", "!=": "=", "!~": "~", **{sign: sign for sign in ("=", "<", "<=", ">", ">=", "~")}}
Condition = ColumnElement[bool]


def parse(expression: str) -> Condition:
    """Return the condition on `tables.AdapterRow` that an expression means; true or false, never NULL."""
    return _Parser(expression).whole()


class _Parser:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = tokenize(expression)
        self._place = 0
        self._tests = 0

    def whole(self) -> Condition:
        condition = self._disjunction(0)
        if self._token.kind != "end":
            raise self._problem("expected 'and', 'or' or the end")
        return condition

    @property
    def _token(self) -> Lexeme:
        return self._tokens[self._place]

    def _take(self) -> Lexeme:
        token = self._token
        self._place += token.kind != "end"
        return token

    def _word(self, *words: str) -> bool:
        token = self._token
        is_match = token.kind in ("word", "sign") and token.text.lower() in words
        if is_match:
            self._take()
        return is_match

    def _problem(self, message: str, token: Lexeme | None = None, hint: str | None = None) -> WhereError:
        at = token or self._token
        return WhereError(message, self._expression, at.start, hint=hint)

    def _disjunction(self, depth: int) -> Condition:
        several = [self._conjunction(depth)]
        while self._word("or"):
            several.append(self._conjunction(depth))
        return or_(*several)

    def _conjunction(self, depth: int) -> Condition:
        several = [self._negation(depth)]
        while self._word("and"):
            several.append(self._negation(depth))
        return and_(*several)

    def _negation(self, depth: int) -> Condition:
        if depth > DEPTH:
            raise self._problem(f"more than {DEPTH} parentheses and 'not' are within each other")
        if self._word("not"):
            return not_(self._negation(depth + 1))
        if self._token.text == "(" and self._token.kind == "sign":
            opened = self._take()
            condition = self._disjunction(depth + 1)
            if not self._word(")"):
                raise self._problem("this parenthesis is not closed", opened)
            return condition
        return self._test()

    def _test(self) -> Condition:
        token = self._take()
        if token.kind not in ("word", "text") or (token.kind == "word" and token.text.lower() in WORDS):
            raise self._problem("expected the name of a field", token, hint=_field_hint())
        field = field_named(token.text) if token.kind == "word" else None
        if field is None:
            hint = nearest(token.text, [*FIELDS, f"{TAG}KEY", f"{METRIC}NAME"]) or _field_hint()
            raise self._problem(f"there is no field {token.text[:60]!r}", token, hint=hint)
        self._count(token)
        negated = self._word("not")
        if self._word("in"):
            if not self._word("("):
                raise self._problem("expected '(' after 'in'")
            tests = [field.fits("=", self._value(field))]
            while self._word(","):
                self._count(self._token)
                tests.append(field.fits("=", self._value(field)))
            if not self._word(")"):
                raise self._problem("expected ',' or ')'")
            return _negated(or_(*tests), negated)
        if negated:
            raise self._problem("expected 'in' after 'not'")
        if self._word("is"):
            negated = self._word("not")
            if not self._word("null"):
                raise self._problem("expected 'null' or 'not null' after 'is'")
            return _negated(field.missing(), negated)
        operator = self._token
        takes = f"{token.text} takes {' '.join(sorted(field.operators))}, 'in' and 'is null'"
        if operator.kind != "sign" or operator.text not in _OPERATORS:
            if field.kind == "flag":
                return field.fits("=", True)
            raise self._problem("expected a comparison", hint=takes)
        self._take()
        op = _OPERATORS[operator.text]
        if op not in field.operators:
            raise self._problem(f"{token.text} cannot be compared with {op!r}", operator, hint=takes)
        return _negated(field.fits(op, self._value(field, part=op == "~")), operator.text.startswith("!"))

    def _value(self, field: WhereField, *, part: bool = False) -> Value:
        return read_value(field, self._take(), self._expression, part=part)

    def _count(self, token: Lexeme) -> None:
        self._tests += 1
        if self._tests > TESTS:
            raise self._problem(f"the expression has more than {TESTS} tests", token)


def _negated(condition: Condition, negated: bool) -> Condition:
    return not_(condition) if negated else condition


def _field_hint() -> str:
    return f"fields: {', '.join(FIELDS)}, {TAG}KEY, {METRIC}NAME"
