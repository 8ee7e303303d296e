"""Pages of adapters, filtered and ordered, read along an index instead of sorting all adapters.

The cost of a page must not grow with the registry, unless it is sorted by a metric, for which all adapters are looked at.
So the page is selected by ids alone, and only its adapters are then loaded in full.  A filter that matches few adapters
is applied first and its matches are sorted; one that matches many is checked while the order's index is read, since a
page is then soon full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Subquery, false, func, select, union_all
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..errors import BadInputError
from ..records.evaluations import METRIC, is_newest, parse_metric
from ..records.references import load_adapters

SORTABLE: dict[str, Any] = {"name": tables.Adapter.name} | {
    column: getattr(tables.Adapter, column) for column in tables.SORTED
}
"""Fields that `list` can sort by."""

MOST_SORT_FIELDS = 8

FEW = 2_000
"""Adapters that are sooner sorted than a page of them found among all others."""


class _Key(NamedTuple):
    """A field to sort by: a column of the adapter, or the value of a metric, in a table that is joined for it."""

    name: str
    column: Any
    descending: bool
    nullable: bool
    joined: Any = None
    on: Any = None

    def order(self, column: Any) -> ColumnElement[Any]:
        """Return how to sort by it, given where its values are; those without a value come last."""
        ordered: ColumnElement[Any] = column.desc() if self.descending else column.asc()
        return ordered.nulls_last() if self.nullable else ordered


class Page:
    """A query for adapters, built filter by filter."""

    def __init__(self, session: Session, sort: str) -> None:
        """Begin with all adapters.

        Args:
            session: of any transaction.
            sort: fields, each as `FIELD` or `FIELD:desc`, with commas between.

        Raises:
            BadInputError: there is no such field.
        """
        self._session = session
        self._keys = _keys(sort)
        self._filters: list[ColumnElement[bool]] = []
        self._sorts_all = False

    def keep(self, fits: ColumnElement[bool]) -> None:
        """Keep adapters that match a condition on an indexed column."""
        self._filters.append(fits)
        self._sorts_all = self._sorts_all or self._are_few(select(tables.Adapter.id).where(fits))

    def keep_tagged(self, key: str, value: str) -> None:
        """Keep adapters with a tag."""
        tag = tables.AdapterTag
        having = select(tag.adapter_id).where(tag.key == key, tag.value == value)
        if self._are_few(having):
            self._sorts_all = True
            self._filters.append(tables.Adapter.id.in_(having))
        else:
            self._filters.append(
                having.where(tag.adapter_id == tables.Adapter.id).correlate(tables.Adapter).exists()
            )

    def keep_those(self, fits: ColumnElement[bool]) -> None:
        """Keep adapters that match any condition."""
        self._filters.append(fits)

    def query(self, offset: int, limit: int | None) -> Select[tables.Adapter]:
        """Return the query for the adapters of a page, with everything their views need."""
        if limit is None:
            query = self._joined(load_adapters()).where(*self._filters)
            return query.order_by(*self._order()).offset(offset or None)
        page = self._page(offset, limit)
        # By the page's own columns, or the database might walk an index of all adapters once more.
        return load_adapters().join(page, page.c.id == tables.Adapter.id).order_by(*self._order(page.c))

    def _page(self, offset: int, limit: int) -> Subquery:
        """Return the query for a page: ids, and what they are sorted by.

        Those without a value of the first field are found apart, because an index has them at one end for both
        directions.
        """
        first = self._keys[0]
        if self._sorts_all or not first.nullable:
            return self._ids(self._order()).limit(limit).offset(offset or None).subquery()
        order = self._order(plain=True)
        with_value = self._ids(order).where(first.column.is_not(None)).limit(offset + limit).subquery()
        without = self._ids(order).where(first.column.is_(None)).limit(offset + limit).subquery()
        both = union_all(select(with_value), select(without)).subquery()
        return select(both).order_by(*self._order(both.c)).limit(limit).offset(offset or None).subquery()

    def _ids(self, order: list[ColumnElement[Any]]) -> Select[Any]:
        columns = {"id": tables.Adapter.id, **{key.name: key.column.label(key.name) for key in self._keys}}
        query = self._joined(select(*columns.values()).select_from(tables.Adapter)).order_by(*order)
        filters = self._filters
        if not self._sorts_all and self._session.get_bind().dialect.name == "sqlite":
            filters = [_not_leading(fits) for fits in filters]
        return query.where(*filters)

    def _joined(self, query: Select[Any]) -> Select[Any]:
        """Return a query with the tables that the fields to sort by are in."""
        for key in self._keys:
            if key.joined is not None:
                query = query.outerjoin(key.joined, key.on)
        return query

    def _order(self, where: Any = None, *, plain: bool = False) -> list[ColumnElement[Any]]:
        """Return how to sort adapters, or rows that have the fields as attributes.

        Args:
            where: the columns of such rows.
            plain: the first field has a value in all of them, or in none.
        """
        order: list[ColumnElement[Any]] = []
        for number, key in enumerate(self._keys):
            column = key.column if where is None else getattr(where, key.name)
            if plain and number == 0:
                order.append(column.desc() if key.descending else column.asc())
            else:
                order.append(key.order(column))
        # The other way round too, or no index would have the two together.
        last = tables.Adapter.id if where is None else where.id
        return [*order, last.desc() if self._keys[-1].descending else last.asc()]

    def _are_few(self, ids: Select[Any]) -> bool:
        some = ids.limit(FEW + 1).subquery()
        return (self._session.scalar(select(func.count()).select_from(some)) or 0) <= FEW


def _not_leading(fits: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition in a form for which SQLite, which does not count what fits, uses no index."""
    return func.coalesce(fits, false())


def _keys(sort: str) -> list[_Key]:
    fields = sort.split(",")
    if len(fields) > MOST_SORT_FIELDS:
        raise BadInputError(
            f"{len(fields)} fields to sort by are too many", hint=f"at most {MOST_SORT_FIELDS}"
        )
    return [_key(text.strip(), f"key_{number}") for number, text in enumerate(fields)]


def _key(text: str, name: str) -> _Key:
    field, colon, direction = text.rpartition(":")
    if not colon or direction not in ("asc", "desc"):  # names of metrics may have a colon
        field, direction = text, ""
    if field.startswith(METRIC):
        metric, row = parse_metric(field.removeprefix(METRIC)), aliased(tables.Evaluation)
        return _Key(name, row.value, direction == "desc", True, row, is_newest(row, metric))
    column = SORTABLE.get(field)
    if column is None:
        raise BadInputError(
            f"cannot sort by {text[:40]!r}", hint=f"--sort {'|'.join(SORTABLE)}|{METRIC}NAME[:desc][,...]"
        )
    return _Key(name, column, direction == "desc", column.expression.nullable)
