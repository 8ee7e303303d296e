"""Evaluations: what was measured of an adapter, each value with what it was measured on and with.

The value of a metric is the one that was recorded last: lists, filters, rules and comparisons agree on that.  One that was
withdrawn stays on record and counts nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.batches import batches
from ..errors import BadInputError
from .evaluation import Evaluation

METRIC = "metric."
"""What a field of a list begins with that is the value of a metric: `metric.mmlu.acc`."""

LONGEST = 200
"""Characters of a metric's name."""

_NAME = re.compile(r"[A-Za-z0-9_]+(?:[.:@-][A-Za-z0-9_]+)*")

SETTING = ("dataset", "split", "harness", "shots", "seed")
"""What a value was measured on and with: two values of one metric that differ in these are two evaluations."""


_COMPARED = ("dataset", "split", "harness", "shots")
"""What `comparable` is made of."""


def parse_metric(text: str) -> str:
    """Return the name of a metric.

    Raises:
        BadInputError: it is none.
    """
    if not isinstance(text, str) or len(text) > LONGEST or not _NAME.fullmatch(text):
        raise BadInputError(
            f"{str(text)[:60]!r} is not the name of a metric",
            hint="letters, digits and _, with single . : @ - between them, such as mmlu.acc",
        )
    return text


_PERPLEXITY = re.compile(r"(.*_)?(perplexity|ppl)")
_ENTROPY = re.compile(r"bits_per_byte|((val|eval|test|validation)_)?loss")


def range_problem(metric: str, value: float) -> str | None:
    """Return why a metric cannot have a value, in a few words; None if it can, or if its range is not known.

    A cross-entropy is 0 or more, and a perplexity is 1 or more, apart from rounding.
    """
    word = re.split(r"[.:@-]", metric)[-1].lower()
    if _PERPLEXITY.fullmatch(word) and value < 1 - 1e-6:
        return f"the value {value:g} (a perplexity is 1 or more)"
    if _ENTROPY.fullmatch(word) and value < 0:
        return f"the value {value:g} (a loss is 0 or more)"
    return None


def stands(row: tables.Evaluation, at: datetime | None = None) -> bool:
    """Tell whether an evaluation counts: it is on record and not withdrawn, today or at a moment."""
    if at is None:
        return row.withdrawn_at is None
    return row.at <= at and (row.withdrawn_at is None or row.withdrawn_at > at)


def evaluation_records(
    adapter: str, rows: Iterable[tables.Evaluation], at: datetime | None = None
) -> tuple[Evaluation, ...]:
    """Return the records of those of an adapter's evaluations that count, today or at a moment."""
    return tuple(Evaluation.from_row(row, adapter=adapter) for row in rows if stands(row, at))


def key_of(values: Mapping[str, Any] | tables.Evaluation) -> tuple[Any, ...]:
    """Return what tells an adapter's evaluations apart: the metric, and what it was measured on and with."""
    names = ("metric", *SETTING)
    if isinstance(values, tables.Evaluation):
        return tuple(getattr(values, name) for name in names)
    return tuple(values[name] for name in names)


def missing_evaluations(
    adapter: tables.Adapter, measured: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[str], list[tables.Evaluation]]:
    """Return which values of an adapter are not on record; the metrics that are; and what is on record otherwise.

    What was withdrawn is not on record in this sense: the right value may take its place, and so may the same once more.
    """
    there = {key_of(row): row for row in adapter.evaluations if stands(row)}
    new, known, others = list[Mapping[str, Any]](), list[str](), list[tables.Evaluation]()
    for values in measured:
        row = there.get(key_of(values))
        if row is None:
            new.append(values)
        elif row.value == values["value"]:
            known.append(row.metric)
        else:
            others.append(row)
    return new, known, others


def comparable(row: tables.Evaluation | Evaluation) -> tuple[object, ...]:
    """Return what two values of a metric must share to be compared: dataset, split, harness and examples, not the seed."""
    return row.dataset or None, row.split or None, row.harness or None, row.shots


def mismatch(a: tables.Evaluation | Evaluation, b: tables.Evaluation | Evaluation) -> str | None:
    """Return the code of why two values of a metric cannot be compared: the first in which they differ; None if they can."""
    pairs = zip(_COMPARED, comparable(a), comparable(b), strict=True)
    return next((f"metric_other_{name}" for name, ours, theirs in pairs if ours != theirs), None)


def setting_of(row: tables.Evaluation | Evaluation, *, seed: bool = True) -> str:
    """Return what a value was measured on and with, in words; empty if nobody said so."""
    said = ["/".join(part for part in (row.dataset, row.split) if part), row.harness]
    said += [] if row.shots is None else [f"{row.shots}-shot"]
    said += [] if row.seed is None or not seed else [f"seed {row.seed}"]
    return ", ".join(part for part in said if part)


def newest_value(name: str) -> Any:
    """Return the expression of an adapter's value of a metric: the one that was recorded last, null if there is none."""
    row = aliased(tables.Evaluation)
    query = select(row.value).where(
        row.adapter_id == tables.Adapter.id, row.metric == name, row.withdrawn_at.is_(None)
    )
    return query.order_by(row.id.desc()).limit(1).correlate(tables.Adapter).scalar_subquery()


def is_newest(row: Any, name: str) -> ColumnElement[bool]:
    """Return the condition that an alias of the table is an adapter's newest row of a metric."""
    other = aliased(tables.Evaluation)
    newest = (
        select(func.max(other.id))
        .where(other.adapter_id == tables.Adapter.id, other.metric == name, other.withdrawn_at.is_(None))
        .correlate(tables.Adapter)
        .scalar_subquery()
    )
    found: ColumnElement[bool] = (
        (row.adapter_id == tables.Adapter.id) & (row.metric == name) & (row.id == newest)
    )
    return found


def newest_values(
    session: Session, adapters: Sequence[int], metrics: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Return adapters' newest values of some metrics, by the number of the adapter and the metric's name."""
    row = tables.Evaluation
    found: dict[int, dict[str, float]] = {}
    for chosen in batches(adapters):
        query = select(row.adapter_id, row.metric, row.value).where(
            row.adapter_id.in_(chosen), row.metric.in_(metrics), row.withdrawn_at.is_(None)
        )
        for number, metric, value in session.execute(query.order_by(row.id)):
            found.setdefault(number, {})[metric] = value
    return found
