"""Comparing adapters: their records, their training and their fused models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from ..charts.files import picture_kind
from ..documents import write_picture
from ..errors import BadInputError
from ..record import Record
from ..records.adapter_details import AdapterDetails
from ..records.evaluations import METRIC, Evaluation, comparable, mismatch, setting_of
from ..records.run import CurvePoint
from ..records.withdrawals import Withdrawal
from .diff import amended_in, fields
from .show import show_adapter

if TYPE_CHECKING:
    from ..workspace import Workspace

MOST = 50
"""Adapters that one table compares."""

_FUSED = ("format", "weights_bytes", "times_base")
_FIDELITY = ("verdict", "retained", "cosine", "relative_error", "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotComparable(Record):
    """A metric that was measured of two adapters, on or with something else.

    Attributes:
        code: `metric_other_dataset`, `metric_other_split`, `metric_other_harness` or `metric_other_shots`.
        metric: its name.
        adapters: the two.
        why: in one sentence.
    """

    code: str
    metric: str
    adapters: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAdapters(Record):
    """What adapters have in common and where they differ.

    Attributes:
        adapters: their names.
        differs: by field, one value for each adapter, null where it has none; fields of the training configuration are
            called `training.FIELD`, those of the newest model fused from each `fused.FIELD`, what was measured `metric.NAME`.
            What was measured on other datasets, splits or examples is in fields of its own, `metric.NAME (SETTING)`.
        same: the fields with one value for all.
        findings: metrics that cannot be compared, each with the first adapter that has it and another one.
        amended: by field, the adapters that it was amended in.
        curves: by adapter, the points of its training curve, by iteration.
        withdrawals: by adapter, what it has to do with yanks that stand.
        plot: the picture of the curves; None if none was asked for.
    """

    adapters: tuple[str, ...]
    differs: Mapping[str, tuple[object, ...]]
    same: Mapping[str, object]
    findings: tuple[NotComparable, ...]
    amended: Mapping[str, tuple[str, ...]]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    withdrawals: Mapping[str, tuple[Withdrawal, ...]]
    plot: Path | None


def compare_adapters(
    workspace: Workspace, references: Sequence[str], *, plot: Path | None = None, force: bool = False
) -> ComparedAdapters:
    """Return the differences between adapters.

    Args:
        workspace: the registry's parts.
        references: two or more different ones; a task means all its versions.
        plot: draw all training curves into this file, `.png` or `.svg`.
        force: replace the file.

    Raises:
        UnknownReferenceError: one does not exist.
        BadInputError: fewer than two different ones are given, or too many; or there is no curve to draw.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a PNG needs the extra `plot`, which is not installed.
    """
    kind = None if plot is None else picture_kind(plot)
    wanted = _with_versions(workspace, references)
    if len(wanted) > MOST:
        raise BadInputError(
            f"{len(wanted)} adapters are too many for one table",
            hint=f"at most {MOST}, such as TASK@1 TASK@2; fusery history TASK lists all",
        )
    adapters = {adapter.name: adapter for adapter in (show_adapter(workspace, text) for text in wanted)}
    if len(adapters) < 2:
        raise BadInputError(
            "comparing takes two different adapters or more",
            hint="fusery compare REF REF..., or TASK for all its versions; of one: fusery show REF",
        )
    names, details = tuple(adapters), list(adapters.values())
    found = fields(details) | _measured_fields(details) | _fused_fields(details)
    curves = _curves(workspace, names)
    place = None
    if plot is not None and kind is not None:
        from ..charts.curves import draw

        place = plot.expanduser().absolute()
        _require_curves(curves)
        write_picture(place, draw(curves, kind), force=force)
    return ComparedAdapters(
        adapters=names,
        differs={field: values for field, values in found.items() if not _alike(values)},
        same={
            field: values[0] for field, values in found.items() if _alike(values) and values[0] is not None
        },
        findings=tuple(_not_comparable(details)),
        amended={field: within for field in found if (within := amended_in(field, *details))},
        curves=curves,
        withdrawals={name: adapter.withdrawals for name, adapter in adapters.items()},
        plot=place,
    )


def _with_versions(workspace: Workspace, references: Sequence[str]) -> list[str]:
    """Return references with a task's versions in its place."""
    adapter, task = tables.Adapter, tables.Task
    found: list[str] = []
    with workspace.database.read() as session:
        for text in references:
            versions = (
                select(adapter.name)
                .join(task, task.id == adapter.task_id)
                .where(task.name == text.strip().casefold())
                .order_by(adapter.version)
            )
            found += list(session.scalars(versions)) or [text]
    return found


def _alike(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def _fused_fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    """Return the figures of the newest model that was fused from each adapter, null where there is none."""
    newest = [adapter.fused[-1] if adapter.fused else None for adapter in adapters]
    found: dict[str, tuple[object, ...]] = {
        f"fused.{field}": tuple(None if line is None else line[field] for line in newest) for field in _FUSED
    }
    for field in _FIDELITY:
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


def _curves(workspace: Workspace, names: Sequence[str]) -> dict[str, tuple[CurvePoint, ...]]:
    point = tables.CurvePoint
    query = (
        select(tables.Adapter.name, point)
        .join(point, point.adapter_id == tables.Adapter.id)
        .where(tables.Adapter.name.in_(names))
        .order_by(point.iteration)
    )
    curves: dict[str, list[CurvePoint]] = {name: [] for name in names}
    with workspace.database.read() as session:
        for name, row in session.execute(query):
            curves[name].append(
                CurvePoint(
                    iteration=row.iteration,
                    train_loss=row.train_loss,
                    val_loss=row.val_loss,
                    learning_rate=row.learning_rate,
                )
            )
    return {name: tuple(points) for name, points in curves.items()}


def _require_curves(curves: Mapping[str, Sequence[CurvePoint]]) -> None:
    if not any(curves.values()):
        raise BadInputError(
            "no training curve is on record for these adapters",
            hint="register a training run with its log: fusery register DIR --base NAME --log FILE",
        )
