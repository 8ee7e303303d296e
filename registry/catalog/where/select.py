"""From the tree of an expression to a condition of SQLAlchemy, whose values are bound and never part of the SQL."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Double, and_, collate, func, literal, not_, or_

from .fields import Condition, Field, field_named
from .tree import And, In, IsNull, Node, Not, Or, Test, Value

_ESCAPE = "\\"
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def condition(node: Node, dialect: str) -> ColumnElement[bool]:
    """Return the condition on `tables.Adapter` that a tree means; true or false, never NULL.

    Args:
        node: the tree, as `parse` made it.
        dialect: SQLAlchemy's name of the database, since SQLite and PostgreSQL compare upper and lower case differently.
    """
    match node:
        case And(operands):
            return and_(*(condition(operand, dialect) for operand in operands))
        case Or(operands):
            return or_(*(condition(operand, dialect) for operand in operands))
        case Not(operand):
            return not_(condition(operand, dialect))
        case IsNull(name):
            return _field(name).missing()
        case In(name, values):
            field = _field(name)
            return or_(*(field.holds(_test(field, "=", value, dialect)) for value in values))
        case Test(name, op, value):
            field = _field(name)
            return field.holds(_test(field, op, value, dialect))


def _field(name: str) -> Field:
    field = field_named(name)
    assert field is not None, "the parser knows all fields"
    return field


def _test(field: Field, op: str, value: Value, dialect: str) -> Condition:
    if op == "~":
        return lambda column: _folded(column, dialect).like(_pattern(str(value)), escape=_ESCAPE)
    if field.kind == "moment" and not isinstance(value, datetime):
        assert isinstance(value, date)
        return _day_test(op, value)
    bound: Any = value
    if field.kind in ("whole", "size", "real"):
        # A parameter as wide as its value: the column's own type may be narrower.
        bound = literal(value, BigInteger if isinstance(value, int) else Double)
    return lambda column: _compared(column, op, bound)


def _compared(column: Any, op: str, value: Any) -> ColumnElement[bool]:
    found: ColumnElement[bool] = {
        "=": column.__eq__,
        "<": column.__lt__,
        "<=": column.__le__,
        ">": column.__gt__,
        ">=": column.__ge__,
    }[op](value)
    return found


def _day_test(op: str, day: date) -> Condition:
    """A moment against a day: within it, before its start, after its end."""
    start = datetime.combine(day, time(), UTC)
    last = day == date.max
    end = _LAST if last else start + timedelta(days=1)

    def before(column: Any) -> ColumnElement[bool]:
        found: ColumnElement[bool] = column <= end if last else column < end
        return found

    tests: dict[str, Condition] = {
        "=": lambda column: and_(column >= start, before(column)),
        "<": lambda column: column < start,
        "<=": before,
        ">": lambda column: not_(before(column)),
        ">=": lambda column: column >= start,
    }
    return tests[op]


def _folded(column: Any, dialect: str) -> Any:
    """Return a text with the letters A to Z made small, and no others, on both databases."""
    return func.lower(collate(column, "C") if dialect == "postgresql" else column)


def _pattern(text: str) -> str:
    """Return LIKE's pattern: the whole value where the text has * or ?, else any value that contains it."""
    small = "".join(char.lower() if char.isascii() else char for char in text)
    for special in (_ESCAPE, "%", "_"):
        small = small.replace(special, _ESCAPE + special)
    if "*" in small or "?" in small:
        return small.replace("*", "%").replace("?", "_")
    return f"%{small}%"
