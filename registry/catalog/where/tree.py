"""An expression as a tree.  `str` of it is an expression again; the law: `parse(str(tree)) == tree`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

Value = bool | int | float | str | date | datetime
"""What a field is compared with, of the field's kind."""

WORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
"""What cannot be a text without quotes."""

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")


@dataclass(frozen=True, slots=True)
class Test:
    """A field compared with a value.  `op` is one of = < <= > >= ~, of which ~ looks for a part of a text."""

    __test__ = False  # pytest takes what is called so for a class of tests

    field: str
    op: str
    value: Value

    def __str__(self) -> str:
        return f"{self.field} {self.op} {literal(self.value)}"


@dataclass(frozen=True, slots=True)
class In:
    """A field that has one of some values."""

    field: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.field} in ({', '.join(literal(value) for value in self.values)})"


@dataclass(frozen=True, slots=True)
class IsNull:
    """A field that has no value."""

    field: str

    def __str__(self) -> str:
        return f"{self.field} is null"


@dataclass(frozen=True, slots=True)
class Not:
    """What holds where another does not."""

    operand: Node

    def __str__(self) -> str:
        return f"not {_within(self.operand, (And, Or))}"


@dataclass(frozen=True, slots=True)
class And:
    """What holds where all of two or more do."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(_within(operand, (And, Or)) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Or:
    """What holds where one of two or more does."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return " or ".join(_within(operand, (Or,)) for operand in self.operands)


Node = Test | In | IsNull | Not | And | Or


def literal(value: Value) -> str:
    """Return a value as it is written in an expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float):
        return repr(value)
    if _BARE.fullmatch(value) and value.lower() not in WORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _within(node: Node, loose: tuple[type, ...]) -> str:
    return f"({node})" if isinstance(node, loose) else str(node)
