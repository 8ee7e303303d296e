"""Lists: adapters, the versions of a task, base models, and a search by a part of a name or digest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Subquery, false, func, or_, select, union_all
from sqlalchemy.orm import Session, joinedload, selectinload

from fusery.storage.jsonfile import is_keepable

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..names import Reference, parse_slug, parse_task
from ..parsing import nearest
from ..record import parts_of
from ..records.adapter import Adapter, Version
from ..records.evaluation import METRIC, parse_metric
from ..records.fused import Base, BaseDetails
from ..records.references import begins_with, digest_prefix, load_adapters, named_by, resolve_base
from ..records.transfer import SearchResults
from ..records.views import adapter_records, base_record, newest_value, newest_values
from ..workspace.workspace import Workspace

SORTABLE: Mapping[str, Any] = {
    name: getattr(tables.AdapterRow, name) for name, part in parts_of(Adapter).items() if part.about.sortable
}
"""Fields that `list` can sort by."""

MOST_SORT_FIELDS = 8
FEW = 2_000  # adapters that are sooner sorted than a page of them is found among all others


class _Key(NamedTuple):
    name: str
    column: Any
    descending: bool
    nullable: bool

    def order(self, column: Any, *, plain: bool = False) -> ColumnElement[Any]:
        """Return how to sort by it, given where its values are; those without a value come last, unless `plain`."""
        ordered: ColumnElement[Any] = column.desc() if self.descending else column.asc()
        return ordered.nulls_last() if self.nullable and not plain else ordered


class Page:
    """A query for adapters, built filter by filter."""

    def __init__(self, session: Session, sort: str) -> None:
        self._session = session
        self._keys = _keys(sort)
        self._filters: list[ColumnElement[bool]] = []
        self._sorts_all = False

    def keep(self, fits: ColumnElement[bool], *, indexed: bool = True) -> None:
        """Keep adapters that match a condition, on an indexed column or on any."""
        self._filters.append(fits)
        if indexed and not self._sorts_all:
            self._sorts_all = self._are_few(select(tables.AdapterRow.id).where(fits))

    def keep_tagged(self, key: str, value: str) -> None:
        """Keep adapters with a tag."""
        tag = tables.AdapterTagRow
        having, row = select(tag.adapter_id).where(tag.key == key, tag.value == value), tables.AdapterRow
        if self._are_few(having):
            self._sorts_all = True
            self._filters.append(row.id.in_(having))
        else:
            self._filters.append(having.where(tag.adapter_id == row.id).correlate(row).exists())

    def query(self, offset: int, limit: int | None) -> Select[tables.AdapterRow]:
        """Return the query for the adapters of a page, with everything their views need."""
        if limit is None:
            query = load_adapters().where(*self._filters)
            return query.order_by(*self._order()).offset(offset or None)
        page = self._page(offset, limit)
        # By the page's own columns, or the database might walk an index of all adapters once more.
        return load_adapters().join(page, page.c.id == tables.AdapterRow.id).order_by(*self._order(page.c))

    def _page(self, offset: int, limit: int) -> Subquery:
        """Return the query for a page (ids and sort values); adapters without a first value are apart: an index has them last."""
        first = self._keys[0]
        if self._sorts_all or not first.nullable:
            return self._ids(self._order()).limit(limit).offset(offset or None).subquery()
        order = self._order(plain=True)
        with_value = self._ids(order).where(first.column.is_not(None)).limit(offset + limit).subquery()
        without = self._ids(order).where(first.column.is_(None)).limit(offset + limit).subquery()
        both = union_all(select(with_value), select(without)).subquery()
        return select(both).order_by(*self._order(both.c)).limit(limit).offset(offset or None).subquery()

    def _ids(self, order: list[ColumnElement[Any]]) -> Select[Any]:
        columns = {"id": tables.AdapterRow.id, **{key.name: key.column.label(key.name) for key in self._keys}}
        query, filters = select(*columns.values()).select_from(tables.AdapterRow), self._filters
        if not self._sorts_all and self._session.get_bind().dialect.name == "sqlite":
            # In this form SQLite, which does not count what fits, uses no index for it.
            filters = [func.coalesce(fits, false()) for fits in filters]
        return query.where(*filters).order_by(*order)

    def _order(self, where: Any = None, *, plain: bool = False) -> list[ColumnElement[Any]]:
        order: list[ColumnElement[Any]] = []
        for number, key in enumerate(self._keys):
            column = key.column if where is None else getattr(where, key.name)
            order.append(key.order(column, plain=plain and number == 0))
        # The other way round too, or no index would have the two together.
        last = tables.AdapterRow.id if where is None else where.id
        return [*order, last.desc() if self._keys[-1].descending else last.asc()]

    def _are_few(self, ids: Select[Any]) -> bool:
        some = ids.limit(FEW + 1).subquery()
        return (self._session.scalar(select(func.count()).select_from(some)) or 0) <= FEW


def _keys(sort: str) -> list[_Key]:
    fields = sort.split(",")
    if len(fields) > MOST_SORT_FIELDS:
        raise BadInputError(f"too many fields to sort by: {len(fields)}", hint=f"at most {MOST_SORT_FIELDS}")
    return [_key(text.strip(), f"key_{number}") for number, text in enumerate(fields)]


def _key(text: str, name: str) -> _Key:
    field, colon, direction = text.rpartition(":")
    if not colon or direction not in ("asc", "desc"):  # names of metrics may have a colon
        field, direction = text, ""
    if field.startswith(METRIC):
        return _Key(name, newest_value(parse_metric(field.removeprefix(METRIC))), direction == "desc", True)
    column = SORTABLE.get(field)
    if column is None:
        raise BadInputError(
            f"cannot sort by {text[:40]!r}", hint=f"--sort {'|'.join(SORTABLE)}|{METRIC}NAME[:desc][,...]"
        )
    return _Key(name, column, direction == "desc", column.expression.nullable)


_MOST_METRICS = 50


def list_adapters(
    workspace: Workspace,
    *,
    task: str | None = None,
    base: str | None = None,
    tags: dict[str, str] | None = None,
    where: str | None = None,
    sort: str = "created_at",
    limit: int | None = None,
    offset: int = 0,
    metrics: Sequence[str] = (),
) -> list[Adapter]:
    """Return adapters in a constant number of queries; those that are equal in all sorted fields by their registration."""
    if len(metrics) > _MOST_METRICS:
        raise BadInputError(f"too many metrics: {len(metrics):,} (at most {_MOST_METRICS})")
    chosen, wanted = None, [parse_metric(name) for name in metrics]
    if where is not None:
        from .where import parse

        chosen = parse(where)
    with workspace.database.read() as session:
        page = Page(session, sort)
        if task:
            page.keep(tables.AdapterRow.task_id == _task_id(session, task))
        if base:
            page.keep(tables.AdapterRow.base_id == resolve_base(session, base).id)
        for key, value in (tags or {}).items():
            page.keep_tagged(parse_slug(key, "tag"), value)
        if chosen is not None:
            page.keep(chosen, indexed=False)
        rows = list(session.scalars(page.query(offset, limit)))
        adapters = adapter_records(session, rows)
        if not wanted:
            return adapters
        values = newest_values(session, [row.id for row in rows], wanted)
    return [
        replace(record, metrics={name: values.get(row.id, {}).get(name) for name in wanted})
        for row, record in zip(rows, adapters, strict=True)
    ]


def _task_id(session: Session, name: str) -> int:
    task_id = session.scalar(select(tables.TaskRow.id).where(tables.TaskRow.name == parse_task(name)))
    if task_id is None:
        hint = nearest(name.casefold(), session.scalars(select(tables.TaskRow.name).limit(1000)))
        raise UnknownReferenceError(f"there is no task {name!r}", hint=hint or "fusery list")
    return task_id


def task_history(workspace: Workspace, task: str) -> list[Version]:
    """Return the versions of a task, oldest first, each with the change of its validation loss against the one before."""
    with workspace.database.read() as session:
        query = load_adapters().where(tables.AdapterRow.task_id == _task_id(session, task))
        versions = adapter_records(session, list(session.scalars(query.order_by(tables.AdapterRow.version))))
    losses = [None, *(adapter.val_loss for adapter in versions)]
    return [
        Version.extending(adapter, val_loss_change=None if None in (was, now) else now - was)  # type: ignore[operator]
        for adapter, (was, now) in zip(versions, itertools.pairwise(losses), strict=True)
    ]


MOST = 50  # of a kind


def search(workspace: Workspace, text: str) -> SearchResults:
    """Return what is called so, in a few statements however much is on record."""
    wanted, folded = text.strip(), text.strip().casefold()
    if not wanted or not is_keepable(wanted):  # which no name has, and no database takes
        return SearchResults(query=wanted, adapters=(), tasks=(), bases=(), fused=())
    digest = digest_prefix(folded)
    fused = tables.FusedRow
    begun = or_(begins_with(fused.key, digest), begins_with(fused.digest, digest))
    with workspace.database.read() as session:
        task = tables.TaskRow.name
        base, name = tables.BaseModelRow, tables.BaseNameRow
        named = name.folded.contains(folded, autoescape=True)
        having = select(name.base_id).join(base)
        having = having.where(or_(named, begins_with(base.digest, digest)) if digest else named)
        first = select(name.name).where(name.base_id == base.id).order_by(name.id).limit(1).scalar_subquery()
        tasks = _names(session, select(task).where(task.contains(folded, autoescape=True)).order_by(task))
        return SearchResults(
            query=wanted,
            tasks=tasks,
            adapters=_adapters(session, wanted, prefix=None if tasks else folded),
            bases=_names(session, select(first).where(base.id.in_(having)).order_by(base.id)),
            fused=_names(session, select(fused.key).where(begun).order_by(fused.id)) if digest else (),
        )


def _adapters(session: Session, text: str, *, prefix: str | None) -> tuple[str, ...]:
    name = tables.AdapterRow.name
    try:
        reference = Reference.parse(text)
    except BadInputError:
        names: tuple[str, ...] = ()
    else:
        meant = named_by(reference, select(name))
        names = _names(session, meant)[: None if reference.kind == "digest" else 1]
    if not names and prefix is not None:
        # A range, which the index answers: names are small ASCII letters, digits and a few signs.
        names = _names(session, select(name).where(name >= prefix, name < f"{prefix}\x7f").order_by(name))
    return names


def _names(session: Session, query: Select[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(session.scalars(query.limit(MOST))))


def list_bases(workspace: Workspace) -> list[Base]:
    """Return all base models, oldest first."""
    with workspace.database.read() as session:
        base = tables.BaseModelRow
        query = select(base).options(
            selectinload(base.names),
            selectinload(base.revisions),
            selectinload(base.calibrations),
            joinedload(base.manifest).selectinload(tables.ManifestRow.files),
        )
        return [base_record(row) for row in session.scalars(query.order_by(base.id))]


def show_base(workspace: Workspace, name: str, *, limit: int | None = None, offset: int = 0) -> BaseDetails:
    """Return one base model by name or digest prefix, with its adapters."""
    with workspace.database.read() as session:
        base = resolve_base(session, name)
        query = select(tables.AdapterRow.name).where(tables.AdapterRow.base_id == base.id)
        query = query.order_by(tables.AdapterRow.id.desc()).offset(offset or None)
        adapter_names = session.scalars(query.limit(None if limit is None else limit + 1)).all()
        more = limit is not None and len(adapter_names) > limit
        return BaseDetails.extending(
            base_record(base),
            adapters=tuple(reversed(adapter_names[:limit])),
            next=offset + limit if limit is not None and more else None,
        )
