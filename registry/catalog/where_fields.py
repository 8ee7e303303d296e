"""The fields of an adapter that an expression can test, and their columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .. import tables
from ..errors import BadInputError
from ..names import parse_slug
from ..record import Kind, parts_of
from ..records.adapter_details import AdapterDetails
from ..records.amendments import TAG
from ..records.evaluation import METRIC, parse_metric
from ..records.views import newest_value
from ..records.withdrawals import is_yanked, source_pairs

Value = bool | int | float | str | date | datetime  # a value that a field is compared with

Condition = Callable[[Any], sa.ColumnElement[bool]]

_TEXT = frozenset({"=", "~"})
_ORDER = frozenset({"=", "<", "<=", ">", ">="})


@dataclass(frozen=True, slots=True)
class WhereField:
    """A field: the expression of its value, or the query for its values if there may be several."""

    kind: Kind
    column: Any
    rows: sa.Select[Any] | None = None
    choices: tuple[str, ...] = ()  # all values that it can have, if they are known
    inherited: sa.Select[Any] | None = None  # ids of adapters, and values that they have from sources

    @property
    def operators(self) -> frozenset[str]:
        """The comparisons that it takes, besides `in` and `is null`."""
        if self.kind in ("text", "choice"):
            return _TEXT
        return frozenset({"="}) if self.kind == "flag" else _ORDER

    def fits(self, op: str, value: Value) -> sa.ColumnElement[bool]:
        """Return the condition that one of its values compares so, by one of = < <= > >= ~: true or false, never NULL."""
        condition = _test(self.kind, op, value)
        if self.inherited is not None:
            adapter, inherited = self.inherited.selected_columns
            having = self.inherited.with_only_columns(adapter).where(condition(inherited))
            return sa.or_(
                sa.func.coalesce(condition(self.column), sa.false()), tables.AdapterRow.id.in_(having)
            )
        if self.rows is None:
            return sa.func.coalesce(condition(self.column), sa.false())
        (column,) = self.rows.selected_columns
        return sa.exists(self.rows.where(condition(column)).correlate(tables.AdapterRow))

    def missing(self) -> sa.ColumnElement[bool]:
        """Return a condition that is true where it has no value."""
        if self.inherited is not None:
            having = self.inherited.with_only_columns(self.inherited.selected_columns[0])
            return sa.and_(self.column.is_(None), tables.AdapterRow.id.not_in(having))
        if self.rows is None:
            is_null: sa.ColumnElement[bool] = self.column.is_(None)
            return is_null
        return ~sa.exists(self.rows.correlate(tables.AdapterRow))


def field_named(name: str) -> WhereField | None:
    """Return a field; None for an unknown name."""
    if not name.startswith((METRIC, TAG)):
        return FIELDS.get(name)
    try:
        if name.startswith(METRIC):
            return WhereField("real", newest_value(parse_metric(name.removeprefix(METRIC))))
        key = parse_slug(name.removeprefix(TAG), "tag")
    except BadInputError:
        return None
    tag = tables.AdapterTagRow
    value = sa.select(tag.value).where(tag.adapter_id == tables.AdapterRow.id, tag.key == key)
    return WhereField("text", _one(value))


def _one(query: sa.Select[Any]) -> Any:
    return query.correlate(tables.AdapterRow).scalar_subquery()


def _fields() -> dict[str, WhereField]:
    adapter, base = tables.AdapterRow, tables.BaseNameRow
    parent = aliased(adapter)
    task = _one(sa.select(tables.TaskRow.name).where(tables.TaskRow.id == adapter.task_id))
    dataset = _one(sa.select(tables.DatasetRow.name).where(tables.DatasetRow.id == adapter.dataset_id))
    source, pairs = aliased(adapter), source_pairs(sa.select(tables.AdapterSourceRow.adapter_id), up=True)
    of_sources = (
        sa.select(pairs.c.adapter, tables.DatasetRow.name)
        .join(source, source.id == pairs.c.source)
        .join(tables.DatasetRow, tables.DatasetRow.id == source.dataset_id)
    )
    size = _one(sa.select(tables.ManifestRow.size).where(tables.ManifestRow.id == adapter.manifest_id))
    parents = _one(sa.select(parent.name).where(parent.id == adapter.parent_id))
    bases = sa.select(base.name).where(base.base_id == adapter.base_id)
    aliases = sa.select(tables.AliasRow.name).where(tables.AliasRow.adapter_id == adapter.id)
    findings = sa.select(tables.AdapterFindingRow.code).where(
        tables.AdapterFindingRow.adapter_id == adapter.id
    )
    special_fields = {
        "task": WhereField("text", task),
        "base": WhereField("text", None, bases),
        "trained_on": WhereField("text", adapter.trained_on_name),
        "bytes": WhereField("size", size),
        "dataset": WhereField("text", dataset, inherited=of_sources),
        "parent": WhereField("text", parents),
        "yanked": WhereField("flag", is_yanked(adapter.id)),
    }
    fields = {
        name: special_fields.get(name)
        or WhereField(part.kind, getattr(adapter, name), choices=part.about.choices)
        for name, part in parts_of(AdapterDetails).items()
        if part.about.filterable
    }
    fields["alias"] = WhereField("text", None, aliases)
    fields["finding"] = WhereField("text", None, findings)
    return fields


FIELDS: dict[str, WhereField] = _fields()  # by name; besides, tags are `tag.KEY`, and metrics `metric.NAME`


_ESCAPE = "\\"
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Folded(FunctionElement[str]):
    """A text with the letters A to Z in lower case, on both databases."""

    type = sa.String()
    inherit_cache = True


@compiles(Folded)
def _folded(element: Folded, compiler: SQLCompiler, **options: Any) -> str:
    collation = ' COLLATE "C"' if compiler.dialect.name == "postgresql" else ""
    return f"lower({compiler.process(element.clauses, **options)}{collation})"


def _test(kind: Kind, op: str, value: Value) -> Condition:
    if op == "~":
        pattern = _pattern(str(value))
        return lambda column: Folded(column).like(pattern, escape=_ESCAPE)
    if kind == "moment" and isinstance(value, date) and not isinstance(value, datetime):
        start, end = (datetime.combine(value, at, UTC) for at in (time.min, time.max))
        if op == "=":
            return lambda column: sa.and_(column >= start, column <= end)
        return lambda column: _COMPARISONS[op](column, end if op in ("<=", ">") else start)
    bound: Any = value
    if kind in ("whole", "size", "real"):
        # A parameter as wide as its value: the column's own type may be narrower.
        bound = sa.literal(value, sa.BigInteger if isinstance(value, int) else sa.Double)
    return lambda column: _COMPARISONS[op](column, bound)


def _pattern(text: str) -> str:
    small = "".join(char.lower() if char.isascii() else char for char in text)
    for special in (_ESCAPE, "%", "_"):
        small = small.replace(special, _ESCAPE + special)
    if "*" in small or "?" in small:
        return small.replace("*", "%").replace("?", "_")
    return f"%{small}%"
