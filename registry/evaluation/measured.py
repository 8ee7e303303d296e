"""Recording what was measured of an adapter, and listing it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.shell import typed

from .. import tables
from ..access.roles import require_may_change
from ..database import events
from ..errors import BadInputError, MetricOfOtherAdapterError, MetricRecordedTwiceError
from ..limits import EVALUATIONS, require_count, require_within
from ..records.evaluation import Evaluation, RecordedEvaluations
from ..records.evaluations import (
    evaluation_records,
    key_of,
    missing_evaluations,
    parse_metric,
    setting_of,
    stands,
)
from ..records.references import resolve_adapter
from .harness_results import Measured, Results, read_results, require_measured, results_of

if TYPE_CHECKING:
    from ..workspace import Workspace

EVALUATED = "adapter.evaluated"

MEASURED = "what was measured"
"""What messages call results that are from no file."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*_v[1-9][0-9]*_[0-9]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = re.compile(r"[\s,=/\\]+")
_MOST_PIECES = 200
"""Of the texts that name a model; a command line of a harness has a few dozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a measurement was made on and with, where the results do not say it; None where they do, or nobody knows.

    Attributes:
        dataset: what was measured on.
        split: of the dataset.
        harness: the program that measured.
        seed: of the measurement.
    """

    dataset: str | None = None
    split: str | None = None
    harness: str | None = None
    seed: int | None = None


def results_in(results: Path | Mapping[str, float]) -> Results:
    """Return what a file of results, or a map of metrics to values, says.

    Raises:
        MissingFileError: there is no such file, or it is not a regular one.
        FormatError: it is too large, or no JSON.
        BadInputError: these are no results.
    """
    if isinstance(results, Path):
        return read_results(results)
    return results_of(results, MEASURED)


def record_evaluations(
    workspace: Workspace,
    reference: str,
    results: Results,
    *,
    file: str | None = None,
    setting: Setting,
    dry_run: bool = False,
) -> RecordedEvaluations:
    """Record what was measured of an adapter; all of it or nothing.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        results: as `results_in` returns them.
        file: that they are from.
        setting: what the results do not say.
        dry_run: only read and compare them.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: these are no results, or say otherwise than `setting`.
        MetricOfOtherAdapterError: they are of another registered adapter.
        MetricNotFiniteError: a value is NaN or infinite.
        MetricRecordedTwiceError: another value of the same metric is on record, measured on and with the same.
    """
    name = MEASURED if file is None else Path(file).name
    measured = [_settled(each, setting, name) for each in results.measured]
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        _require_own(session, adapter, results, name, file or "RESULTS.json")
        new, known = _missing(adapter, measured)
        rows = evaluation_rows(workspace, session, [(each, results.source) for each in new])
        if rows and not dry_run:
            require_may_change(workspace, session, "evaluation", adapter)
            write_evaluations(workspace, session, adapter, rows)
        return RecordedEvaluations(
            adapter.name, results.form, evaluation_records(adapter.name, rows), tuple(known), dry_run
        )


def adopt_evaluations(
    workspace: Workspace, reference: str, measured: Sequence[tuple[Measured, str | None]]
) -> None:
    """Record what was measured elsewhere, as far as nothing of it is on record; where that differs, it stays.

    What was withdrawn here does not come back by this.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        measured: values that `require_measured` takes, each with the digest of the file that said it.
    """
    if not measured:
        return
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        gone = {(key_of(row), row.value) for row in adapter.evaluations if not stands(row)}
        told = [(key_of(each.values()), each, source) for each, source in measured]
        sources = {key: (each, source) for key, each, source in told if (key, each.value) not in gone}
        new, _, _ = missing_evaluations(adapter, [each.values() for each, _ in sources.values()])
        if rows := evaluation_rows(workspace, session, [sources[key_of(values)] for values in new]):
            require_may_change(workspace, session, "evaluation", adapter)
            write_evaluations(workspace, session, adapter, rows)


def evaluation_rows(
    workspace: Workspace, session: Session, measured: Sequence[tuple[Measured, str | None]]
) -> list[tables.Evaluation]:
    """Return rows of values, each with the digest of the file that said it."""
    at = workspace.database.utcnow(session)
    return [
        tables.Evaluation(**each.values(), source=source, at=at, by=workspace.actor)
        for each, source in measured
    ]


def write_evaluations(
    workspace: Workspace, session: Session, adapter: tables.Adapter, rows: Sequence[tables.Evaluation]
) -> None:
    """Record evaluations of an adapter and their log entry, in the caller's write transaction.

    Raises:
        BadInputError: the adapter would have too many evaluations.
    """
    require_within(adapter.name, "evaluations", EVALUATIONS, [*adapter.evaluations, *rows])
    adapter.evaluations.extend(rows)
    session.flush()
    events.record(
        session,
        action=EVALUATED,
        kind="adapter",
        subject=adapter.name,
        detail={
            "digest": adapter.digest,
            "sources": sorted({row.source for row in rows if row.source is not None}),
            "metrics": [{"metric": row.metric, "value": row.value} for row in rows],
        },
        actor=workspace.actor,
        at=rows[0].at,
    )


def list_evaluations(
    workspace: Workspace,
    reference: str | None = None,
    *,
    metric: str | None = None,
    limit: int | None = None,
) -> list[Evaluation]:
    """Return evaluations in the order in which they were recorded; with a limit, the newest ones.

    Args:
        workspace: the registry's parts.
        reference: only of this adapter.
        metric: only of this name.
        limit: at most so many.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: that is no name of a metric.
    """
    row, adapter = tables.Evaluation, tables.Adapter
    query = select(row, adapter.name).join(adapter, adapter.id == row.adapter_id)
    query = query.where(row.withdrawn_at.is_(None))
    with workspace.database.read() as session:
        if reference is not None:
            query = query.where(row.adapter_id == resolve_adapter(session, reference).id)
        if metric is not None:
            query = query.where(row.metric == parse_metric(metric))
        found = session.execute(query.order_by(row.id.desc()).limit(limit)).all()
        return [record for each, name in reversed(found) for record in evaluation_records(name, [each])]


def _missing(adapter: tables.Adapter, measured: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    own = {key_of(each.values()): each for each in measured}
    new, known, others = missing_evaluations(adapter, [each.values() for each in measured])
    if others:
        row = others[0]
        on = setting_of(row)
        more = f", and {len(others) - 1} more differ" if len(others) > 1 else ""
        raise MetricRecordedTwiceError(
            f"{row.metric} of {adapter.name} is on record as {row.value:g}{f' ({on})' if on else ''}, and not as "
            f"{own[key_of(row)].value:g}{more}",
            hint="of another measurement, say what is different: --seed N, --split or --dataset; "
            f"fusery eval list {adapter.name}",
        )
    require_count(adapter.name, "evaluations", EVALUATIONS, len(adapter.evaluations) + len(new))
    return [own[key_of(values)] for values in new], known


def _settled(each: Measured, setting: Setting, name: str) -> Measured:
    """Return a value with what was said besides; refuse what contradicts the results."""
    said: dict[str, Any] = {}
    for field in ("dataset", "split", "harness", "seed"):
        wanted, known = getattr(setting, field), getattr(each, field)
        if wanted is None:
            continue
        if known not in ("", None, wanted):
            raise BadInputError(
                f"{name} says that the {field} of {each.metric} is {known}, and --{field} says {wanted}",
                hint=f"leave --{field} out",
            )
        said[field] = wanted
    settled = replace(each, **said)
    require_measured(settled, name)
    return settled


def _require_own(session: Session, adapter: tables.Adapter, found: Results, name: str, file: str) -> None:
    """Refuse results whose model is another registered adapter, by its name or its digest.

    Raises:
        MetricOfOtherAdapterError: they are of another one.
    """
    names, digests = set[str](), set[str]()
    for piece in list(_pieces(found.said_of))[:_MOST_PIECES]:
        names |= set(_NAME.findall(piece.removeprefix("adapters_"))[:1])
        digests |= set(_DIGEST.findall(piece)[:1])
    row = tables.Adapter
    said = session.execute(
        select(row.name, row.digest).where(or_(row.name.in_(names), row.digest.in_(digests))).order_by(row.id)
    ).all()
    others = [each for each in said if each.digest != adapter.digest]
    if others and len(others) == len(said):
        other = others[0].name
        raise MetricOfOtherAdapterError(
            f"{name} says that it is of {other}, and not of {adapter.name}",
            hint=f"fusery eval record {other} {typed(file)}",
        )


def _pieces(said_of: Sequence[str]) -> Iterator[str]:
    for text in said_of:
        yield from (piece for piece in _PIECE.split(text[:10_000].lower()) if piece)
