"""The fields of an adapter that an expression can test, and their columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Select,
    and_,
    collate,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.orm import aliased

from ... import tables
from ...errors import BadInputError
from ...names import parse_slug
from ...record import Kind, parts_of
from ...records.adapter_details import AdapterDetails
from ...records.amendments import TAG
from ...records.evaluation import METRIC, parse_metric
from ...records.views import newest_value
from ...records.withdrawals import is_yanked, source_pairs

Value = bool | int | float | str | date | datetime
"""What a field is compared with, of the field's kind."""

WORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
"""What cannot be a text without quotes."""


@dataclass(frozen=True, slots=True)
class Test:
    """A field compared with a value.  `op` is one of = < <= > >= ~, of which ~ looks for a part of a text."""

    __test__ = False  # pytest takes what is called so for a class of tests

    field: str
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    """A field that has one of some values."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """A field that has no value."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """What holds where another does not."""

    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    """What holds where all of two or more do."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """What holds where one of two or more does."""

    operands: tuple[Node, ...]


Node = Test | In | IsNull | Not | And | Or


Condition = Callable[[Any], ColumnElement[bool]]

_TEXT = frozenset({"=", "~"})
_ORDER = frozenset({"=", "<", "<=", ">", ">="})
_EXAMPLES = {
    "text": '~ "part*"',
    "choice": "= lora",
    "whole": ">= 8",
    "real": "< 0.5",
    "size": "> 5MB",
    "day": ">= 2026-01-15",
    "moment": ">= 2026-01-15",
    "flag": "= true",
}


@dataclass(frozen=True, slots=True)
class WhereField:
    """One field.

    Attributes:
        column: the expression of its value; None if there may be several.
        rows: the query for its values, whose one column is tested, if there may be several.
        choices: all values that it can have, if they are known.
        inherited: the query for adapter ids and the values that these adapters inherit from their sources.
    """

    kind: Kind
    column: Any
    rows: Select[Any] | None = None
    choices: tuple[str, ...] = ()
    inherited: Select[Any] | None = None

    @property
    def operators(self) -> frozenset[str]:
        """The comparisons that it takes, besides `in` and `is null`."""
        if self.kind in ("text", "choice"):
            return _TEXT
        return frozenset({"="}) if self.kind == "flag" else _ORDER

    def example(self, name: str) -> str:
        """Return a test of it."""
        return f"{name} {_EXAMPLES[self.kind]}"

    def holds(self, condition: Condition) -> ColumnElement[bool]:
        """Return a condition that is true where one of its values matches, else false, never NULL."""
        if self.inherited is not None:
            adapter, value = self.inherited.selected_columns
            having = self.inherited.with_only_columns(adapter).where(condition(value))
            return or_(func.coalesce(condition(self.column), false()), tables.AdapterRow.id.in_(having))
        if self.rows is None:
            return func.coalesce(condition(self.column), false())
        (value,) = self.rows.selected_columns
        return exists(self.rows.where(condition(value)).correlate(tables.AdapterRow))

    def missing(self) -> ColumnElement[bool]:
        """Return a condition that is true where it has no value."""
        if self.inherited is not None:
            having = self.inherited.with_only_columns(self.inherited.selected_columns[0])
            return and_(self.column.is_(None), tables.AdapterRow.id.not_in(having))
        if self.rows is None:
            found: ColumnElement[bool] = self.column.is_(None)
            return found
        return ~exists(self.rows.correlate(tables.AdapterRow))


def field_named(name: str) -> WhereField | None:
    """Return a field, None if there is none of that name."""
    if not name.startswith((METRIC, TAG)):
        return FIELDS.get(name)
    try:
        if name.startswith(METRIC):
            return WhereField("real", newest_value(parse_metric(name.removeprefix(METRIC))))
        key = parse_slug(name.removeprefix(TAG), "tag")
    except BadInputError:
        return None
    tag = tables.AdapterTagRow
    return WhereField(
        "text", _one(select(tag.value).where(tag.adapter_id == tables.AdapterRow.id, tag.key == key))
    )


def _one(query: Select[Any]) -> Any:
    return query.correlate(tables.AdapterRow).scalar_subquery()


def _fields() -> dict[str, WhereField]:
    adapter, base = tables.AdapterRow, tables.BaseNameRow
    parent = aliased(adapter)
    task = _one(select(tables.TaskRow.name).where(tables.TaskRow.id == adapter.task_id))
    dataset = _one(select(tables.DatasetRow.name).where(tables.DatasetRow.id == adapter.dataset_id))
    source, pairs = aliased(adapter), source_pairs(select(tables.AdapterSourceRow.adapter_id), up=True)
    of_sources = (
        select(pairs.c.adapter, tables.DatasetRow.name)
        .join(source, source.id == pairs.c.source)
        .join(tables.DatasetRow, tables.DatasetRow.id == source.dataset_id)
    )
    size = _one(select(tables.ManifestRow.size).where(tables.ManifestRow.id == adapter.manifest_id))
    parents = _one(select(parent.name).where(parent.id == adapter.parent_id))
    bases = select(base.name).where(base.base_id == adapter.base_id)
    aliases = select(tables.AliasRow.name).where(tables.AliasRow.adapter_id == adapter.id)
    findings = select(tables.AdapterFindingRow.code).where(tables.AdapterFindingRow.adapter_id == adapter.id)
    elsewhere = {
        "task": WhereField("text", task),
        "base": WhereField("text", None, bases),
        "trained_on": WhereField("text", adapter.trained_on_name),
        "bytes": WhereField("size", size),
        "dataset": WhereField("text", dataset, inherited=of_sources),
        "parent": WhereField("text", parents),
        "yanked": WhereField("flag", is_yanked(adapter.id)),
    }
    found = {
        name: elsewhere.get(name) or WhereField(part.kind, getattr(adapter, name), choices=part.about.choices)
        for name, part in parts_of(AdapterDetails).items()
        if part.about.filterable
    }
    return {
        **found,
        "alias": WhereField("text", None, aliases),
        "finding": WhereField("text", None, findings),
    }


FIELDS: dict[str, WhereField] = _fields()
"""Every field by its name; besides, each tag is one, `tag.KEY`, and each metric, `metric.NAME`."""


_ESCAPE = "\\"


def condition(node: Node, dialect: str) -> ColumnElement[bool]:
    """Return the condition on `tables.AdapterRow` that a tree means; true or false, never NULL."""
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


def _field(name: str) -> WhereField:
    field = field_named(name)
    assert field is not None, "the parser knows all fields"
    return field


def _test(field: WhereField, op: str, value: Value, dialect: str) -> Condition:
    if op == "~":
        # On both databases, only the letters A to Z are folded.
        return lambda column: func.lower(collate(column, "C") if dialect == "postgresql" else column).like(
            _pattern(str(value)), escape=_ESCAPE
        )
    if field.kind == "moment" and isinstance(value, date) and not isinstance(value, datetime):
        return _day_test(op, value)
    bound: Any = value
    if field.kind in ("whole", "size", "real"):
        # A parameter as wide as its value: the column's own type may be narrower.
        bound = literal(value, BigInteger if isinstance(value, int) else Double)
    return lambda column: _COMPARISONS[op](column, bound)


_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _day_test(op: str, day: date) -> Condition:
    start, end = (datetime.combine(day, at, UTC) for at in (time.min, time.max))
    if op == "=":
        return lambda column: and_(column >= start, column <= end)
    return lambda column: _COMPARISONS[op](column, end if op in ("<=", ">") else start)


def _pattern(text: str) -> str:
    small = "".join(char.lower() if char.isascii() else char for char in text)
    for special in (_ESCAPE, "%", "_"):
        small = small.replace(special, _ESCAPE + special)
    if "*" in small or "?" in small:
        return small.replace("*", "%").replace("?", "_")
    return f"%{small}%"
