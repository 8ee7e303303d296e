"""The values of an expression, each read as its field's kind says."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime

from ...errors import BadInputError
from ...parsing import is_ago, parse_moment
from .fields import Field
from .problem import WhereError, nearest
from .tokens import Token
from .tree import WORDS, Value

PATTERN = 200
"""Characters of a pattern."""

STARS = 8
"""Stars in a pattern: what matching costs grows with each."""

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


def read_value(field: Field, token: Token, expression: str, *, part: bool = False) -> Value:
    """Return the value that a token means to a field.

    Args:
        field: what it is compared with.
        token: as written.
        expression: all of it, for messages.
        part: it is a pattern for a part of a text.

    Raises:
        WhereError: it is not of the field's kind.
    """
    value = _read(field, token)
    if value is None:
        reserved = token.kind == "word" and token.text.lower() in WORDS
        hint = "to look for what has no value, write: FIELD is null" if token.text.lower() == "null" else None
        if reserved and field.kind == "text" and hint is None:
            hint = f'put it in quotes: "{token.text}"'
        raise WhereError(f"expected {_EXPECTED[field.kind]}", expression, token.start, hint=hint)
    if field.choices and value not in field.choices and not part:
        hint = nearest(str(value), field.choices) or f"one of {', '.join(field.choices)}"
        raise WhereError(f"{str(value)[:60]!r} is none of its values", expression, token.start, hint=hint)
    if part and (len(str(value)) > PATTERN or str(value).count("*") > STARS):
        raise WhereError(
            f"a pattern has at most {PATTERN} characters and {STARS} stars", expression, token.start
        )
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise WhereError("this text holds NUL or half of a character", expression, token.start)
    return value


def _read(field: Field, token: Token) -> Value | None:
    if field.kind in ("text", "choice"):
        return _text(token)
    if field.kind == "flag":
        return {"true": True, "false": False}.get(token.text.lower()) if token.kind == "word" else None
    if field.kind == "day":
        return _day(token)
    if field.kind == "moment":
        return _moment(token)
    if token.kind != "number":
        return None
    if field.kind == "size":
        return _whole(token, _SIZES)
    return _whole(token, _COUNTS) if field.kind == "whole" else _real(token)


def _text(token: Token) -> str | None:
    # A number or a date is a text too, as one may be a tag's value; a word that means something else is not.
    if token.kind in ("text", "number", "date"):
        return token.text
    return token.text if token.kind == "word" and token.text.lower() not in WORDS else None


def _whole(token: Token, units: dict[str, int]) -> int | float | None:
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


def _real(token: Token) -> float | None:
    match = _NUMBER.fullmatch(token.text)
    if match is None or match["unit"]:
        return None
    value = float(match["number"])
    return value if math.isfinite(value) else None


def _day(token: Token) -> date | None:
    if token.kind not in ("date", "text", "number"):
        return None
    if is_ago(token.text):
        moment = _ago(token.text)
        return moment and moment.date()
    try:
        return date.fromisoformat(token.text)
    except ValueError:
        return None


def _moment(token: Token) -> date | datetime | None:
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
