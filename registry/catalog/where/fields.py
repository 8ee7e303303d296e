"""The fields of an adapter that an expression can test, and their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, false, func, or_, select
from sqlalchemy.orm import aliased

from ... import tables
from ...errors import BadInputError
from ...names import parse_slug
from ...record import Kind, parts_of
from ...records.adapter_details import AdapterDetails
from ...records.evaluations import METRIC, newest_value, parse_metric
from ...records.recipe import source_pairs
from ...records.withdrawals import is_yanked

Condition = Callable[[Any], ColumnElement[bool]]

TAG = "tag."
"""What the name of a tag begins with."""

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
class Field:
    """One field.

    Attributes:
        kind: of its values.
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
            return or_(func.coalesce(condition(self.column), false()), tables.Adapter.id.in_(having))
        if self.rows is None:
            return func.coalesce(condition(self.column), false())
        (value,) = self.rows.selected_columns
        return exists(self.rows.where(condition(value)).correlate(tables.Adapter))

    def missing(self) -> ColumnElement[bool]:
        """Return a condition that is true where it has no value."""
        if self.inherited is not None:
            having = self.inherited.with_only_columns(self.inherited.selected_columns[0])
            return and_(self.column.is_(None), tables.Adapter.id.not_in(having))
        if self.rows is None:
            found: ColumnElement[bool] = self.column.is_(None)
            return found
        return ~exists(self.rows.correlate(tables.Adapter))


def field_named(name: str) -> Field | None:
    """Return a field, None if there is none of that name."""
    if name.startswith(METRIC):
        return _metric(name.removeprefix(METRIC))
    if not name.startswith(TAG):
        return FIELDS.get(name)
    try:
        key = parse_slug(name.removeprefix(TAG), "tag")
    except BadInputError:
        return None
    tag = tables.AdapterTag
    return Field(
        "text",
        _one(select(tag.value).where(tag.adapter_id == tables.Adapter.id, tag.key == key)),
    )


def _metric(name: str) -> Field | None:
    try:
        value = newest_value(parse_metric(name))
    except BadInputError:
        return None
    return Field("real", value)


def _one(query: Select[Any]) -> Any:
    return query.correlate(tables.Adapter).scalar_subquery()


def _fields() -> dict[str, Field]:
    adapter, base = tables.Adapter, tables.BaseName
    parent = aliased(adapter)
    task = _one(select(tables.Task.name).where(tables.Task.id == adapter.task_id))
    dataset = _one(select(tables.Dataset.name).where(tables.Dataset.id == adapter.dataset_id))
    source, pairs = aliased(adapter), source_pairs(select(tables.AdapterSource.adapter_id), up=True)
    of_sources = (
        select(pairs.c.adapter, tables.Dataset.name)
        .join(source, source.id == pairs.c.source)
        .join(tables.Dataset, tables.Dataset.id == source.dataset_id)
    )
    size = _one(select(tables.Manifest.size).where(tables.Manifest.id == adapter.manifest_id))
    parents = _one(select(parent.name).where(parent.id == adapter.parent_id))
    bases = select(base.name).where(base.base_id == adapter.base_id)
    aliases = select(tables.Alias.name).where(tables.Alias.adapter_id == adapter.id)
    findings = select(tables.AdapterFinding.code).where(tables.AdapterFinding.adapter_id == adapter.id)
    elsewhere = {
        "task": Field("text", task),
        "base": Field("text", None, bases),
        "trained_on": Field("text", adapter.trained_on_name),
        "bytes": Field("size", size),
        "dataset": Field("text", dataset, inherited=of_sources),
        "parent": Field("text", parents),
        "yanked": Field("flag", is_yanked(adapter.id)),
    }
    found = {
        name: elsewhere.get(name) or Field(part.kind, getattr(adapter, name), choices=part.about.choices)
        for name, part in parts_of(AdapterDetails).items()
        if part.about.filterable
    }
    return {**found, "alias": Field("text", None, aliases), "finding": Field("text", None, findings)}


FIELDS: dict[str, Field] = _fields()
"""Every field by its name; besides, each tag is one, `tag.KEY`, and each metric, `metric.NAME`."""
