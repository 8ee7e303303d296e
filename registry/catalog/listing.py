"""Registered adapters: a list, and the versions of a task."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..names import parse_slug, parse_task
from ..records.adapter import Adapter, Version
from ..records.evaluations import newest_values, parse_metric
from ..records.references import load_adapters, resolve_base
from ..records.views import adapter_facts, adapter_records
from .paging import Page

if TYPE_CHECKING:
    from ..workspace import Workspace

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
    """Return adapters, in a constant number of queries.

    Pages are stable: adapters that are equal in all sorted fields come in the order of registration (reversed where the
    last field is), and one registered meanwhile moves only those that sort behind it.  Reading a page takes the same
    time however many adapters there are (`fusery.registry.catalog.paging`).

    Args:
        workspace: the registry's parts.
        task: only of this task.
        base: only on this base.
        tags: only with all of these tags.
        where: only those that match an expression; see `fusery.registry.catalog.where`.
        sort: fields, each as `FIELD` or `FIELD:desc`, with commas between; adapters without a value come last.
        limit: at most this many.
        offset: skip this many at the beginning.
        metrics: names of metrics whose values each adapter's `metrics` is to have.

    Raises:
        UnknownReferenceError: there is no such task or base.
        BadInputError: there is no such field to sort by, that is no name of a metric, or there are too many.
        WhereError: the expression is not one.
    """
    if len(metrics) > _MOST_METRICS:
        raise BadInputError(f"too many metrics: {len(metrics):,} (at most {_MOST_METRICS})")
    chosen, wanted = None, [parse_metric(name) for name in metrics]
    if where is not None:
        from .where import condition, parse

        chosen = parse(where)
    with workspace.database.read() as session:
        page = Page(session, sort)
        if task:
            page.keep(tables.Adapter.task_id == _task_id(session, task))
        if base:
            page.keep(tables.Adapter.base_id == resolve_base(session, base).id)
        for key, value in (tags or {}).items():
            page.keep_tagged(parse_slug(key, "tag"), value)
        if chosen is not None:
            page.keep_those(condition(chosen, session.get_bind().dialect.name))
        rows = list(session.scalars(page.query(offset, limit)))
        found = adapter_records(session, rows)
        if not wanted:
            return found
        values = newest_values(session, [row.id for row in rows], wanted)
    return [
        replace(record, metrics={name: values.get(row.id, {}).get(name) for name in wanted})
        for row, record in zip(rows, found, strict=True)
    ]


def _task_id(session: Session, name: str) -> int:
    found = session.scalar(select(tables.Task.id).where(tables.Task.name == parse_task(name)))
    if found is None:
        import difflib

        known = list(session.scalars(select(tables.Task.name).limit(1000)))
        close = difflib.get_close_matches(name.casefold(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "fusery list"
        raise UnknownReferenceError(f"there is no task {name!r}", hint=hint)
    return found


def task_history(workspace: Workspace, task: str) -> list[Version]:
    """Return the versions of a task, oldest first, each with the change of its validation loss against the one before.

    Raises:
        UnknownReferenceError: there is no such task.
    """
    with workspace.database.read() as session:
        query = load_adapters().where(tables.Adapter.task_id == _task_id(session, task))
        versions = adapter_facts(session, list(session.scalars(query.order_by(tables.Adapter.version))))
    losses = [facts["val_loss"] for facts in versions]
    changes = [None, *itertools.starmap(_change, itertools.pairwise(losses))]
    return [
        Version(**facts, val_loss_change=change) for facts, change in zip(versions, changes, strict=False)
    ]


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
