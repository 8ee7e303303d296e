"""Comparing adapters: their records, their training and their fused models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..charts.files import picture_kind
from ..documents import write_picture
from ..errors import BadInputError
from ..fusion.views import line_of
from ..record import compared
from ..records.adapter_details import AdapterDetails
from ..records.difference import ComparedAdapters, NotComparable
from ..records.evaluation import Evaluation
from ..records.evaluations import METRIC, comparable, mismatch, setting_of
from ..records.fused import Fidelity, FusedLine
from ..records.fused_rows import fused_by_adapter
from ..records.references import load_adapters, resolve_adapter
from ..records.run import CurvePoint
from ..records.withdrawal import own
from ..records.withdrawals import of_adapters, of_fused
from .diff import amended_in, fields
from .views import full_records

if TYPE_CHECKING:
    from ..workspace import Workspace

MOST = 50
"""Adapters that one table compares."""


def compare_adapters(workspace: Workspace, references: Sequence[str]) -> ComparedAdapters:
    """Return the differences between adapters.

    Args:
        workspace: the registry's parts.
        references: two or more different ones; a task means all its versions.

    Raises:
        UnknownReferenceError: one does not exist.
        BadInputError: fewer than two different ones are given, or too many.
    """
    with workspace.database.read() as session:
        details = _details(session, _chosen(session, references))
    names = tuple(adapter.name for adapter in details)
    found = fields(details) | _measured_fields(details) | _fused_fields(details)
    curves = {adapter.name: adapter.curve for adapter in details}
    return ComparedAdapters(
        adapters=names,
        differs={field: values for field, values in found.items() if not _alike(values)},
        same={
            field: values[0] for field, values in found.items() if _alike(values) and values[0] is not None
        },
        findings=tuple(_not_comparable(details)),
        amended={field: within for field in found if (within := amended_in(field, *details))},
        curves=curves,
        withdrawals={adapter.name: adapter.withdrawals for adapter in details},
        plot=None,
    )


def drawn(found: ComparedAdapters, plot: Path, *, force: bool = False) -> ComparedAdapters:
    """Draw all training curves into a file, `.png` or `.svg`, and return the record with its path.

    Raises:
        BadInputError: there is no curve to draw, or the picture's ending is not known.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a PNG needs the extra `plot`, which is not installed.
    """
    from ..charts.curves import draw

    kind, place = picture_kind(plot), plot.expanduser().absolute()
    _require_curves(found.curves)
    write_picture(place, draw(found.curves, kind), force=force)
    return replace(found, plot=place)


def _chosen(session: Session, references: Sequence[str]) -> list[tables.Adapter]:
    """Return what references name, each adapter once; a task means all its versions."""
    wanted = _with_versions(session, references)
    if len(wanted) > MOST:
        raise BadInputError(
            f"{len(wanted)} adapters are too many for one table",
            hint=f"at most {MOST}, such as TASK@1 TASK@2; fusery history TASK lists all",
        )
    # What is called by its name, as most are, takes one question for all.
    query = load_adapters(in_full=True)
    named = query.where(tables.Adapter.name.in_({text.strip() for text in wanted}))
    known = {adapter.name: adapter for adapter in session.scalars(named).unique()}
    found = {
        adapter.id: adapter
        for text in wanted
        for adapter in [known.get(text.strip()) or resolve_adapter(session, text, query)]
    }
    if len(found) < 2:
        raise BadInputError(
            "comparing takes two different adapters or more",
            hint="fusery compare REF REF..., or TASK for all its versions; of one: fusery show REF",
        )
    return list(found.values())


def _with_versions(session: Session, references: Sequence[str]) -> list[str]:
    """Return references with a task's versions in its place."""
    adapter, task = tables.Adapter, tables.Task
    query = select(task.name, adapter.name).join(task, task.id == adapter.task_id)
    query = query.where(task.name.in_({text.strip().casefold() for text in references}))
    versions: dict[str, list[str]] = {}
    for name, version in session.execute(query.order_by(adapter.version)):
        versions.setdefault(name, []).append(version)
    return [each for text in references for each in versions.get(text.strip().casefold(), [text])]


def _details(session: Session, adapters: Sequence[tables.Adapter]) -> list[AdapterDetails]:
    """Return adapters in full with the models made of them, which are all that is compared of what was made."""
    ids = [adapter.id for adapter in adapters]
    parents = [adapter.parent_id for adapter in adapters if adapter.parent_id is not None]
    reasons = of_adapters(session, [*ids, *parents])
    made = fused_by_adapter(session, adapters)
    told = of_fused(session, [artifact.id for each in made.values() for artifact in each])
    facts = {
        adapter.id: {
            "yanked_reason": own(reasons.get(adapter.id, ())),
            "parent_yanked": own(reasons.get(adapter.parent_id or 0, ())),
            "fused": tuple(
                line_of(artifact, adapter, withdrawals=told.get(artifact.id, ()))
                for artifact in made[adapter.id]
            ),
        }
        for adapter in adapters
    }
    return full_records(session, adapters, reasons, facts)


def _alike(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def _fused_fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    """Return the figures of the newest model that was fused from each adapter, null where there is none."""
    newest = [adapter.fused[-1] if adapter.fused else None for adapter in adapters]
    found: dict[str, tuple[object, ...]] = {
        f"fused.{field}": tuple(None if line is None else line[field] for line in newest)
        for field in compared(FusedLine)
    }
    for field in compared(Fidelity):
        found[f"fused.{field}"] = tuple(None if line is None else line.fidelity[field] for line in newest)
    return found


def _measured_fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    """Return the newest values of each metric; those that cannot be compared are in fields of their own."""
    newest = [{(each.metric, comparable(each)): each for each in adapter.evaluations} for adapter in adapters]
    keys = {key: each for values in newest for key, each in values.items()}
    several = [name for name, count in Counter(name for name, _ in keys).items() if count > 1]
    found: dict[str, tuple[object, ...]] = {}
    for key, each in sorted(keys.items(), key=lambda pair: (pair[0][0], str(pair[0][1]))):
        on = f" ({setting_of(each, seed=False)})" if key[0] in several else ""
        measured = (values.get(key) for values in newest)
        found[f"{METRIC}{key[0]}{on}"] = tuple(None if one is None else one.value for one in measured)
    return found


def _not_comparable(adapters: Sequence[AdapterDetails]) -> Iterator[NotComparable]:
    measured = [(one.name, _by_metric(one.evaluations)) for one in adapters]
    for metric in sorted({metric for _, values in measured for metric in values}):
        having = [(name, values[metric]) for name, values in measured if metric in values]
        first, theirs = having[0]
        settings = {comparable(each) for each in theirs}
        for name, values in having[1:]:
            code = mismatch(theirs[-1], values[-1])
            if code is None or any(comparable(each) in settings for each in values):
                continue
            on = (setting_of(each, seed=False) or "nobody said what" for each in (theirs[-1], values[-1]))
            of = " and of ".join(f"{one} on {what}" for one, what in zip((first, name), on, strict=True))
            yield NotComparable(
                code=code, metric=metric, adapters=(first, name), why=f"{metric} was measured of {of}"
            )


def _by_metric(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    found: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        found.setdefault(each.metric, []).append(each)
    return found


def _require_curves(curves: Mapping[str, Sequence[CurvePoint]]) -> None:
    if not any(curves.values()):
        raise BadInputError(
            "no training curve is on record for these adapters",
            hint="register a training run with its log: fusery register DIR --base NAME --log FILE",
        )
