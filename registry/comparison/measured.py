"""Recording what was measured of an adapter, and listing it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.errors import typed
from fusery.storage.progress import Reporter
from fusery.storage.secrets import without_credentials

from .. import tables
from ..actors import person
from ..admission.submission import LIMITS, require_text
from ..database import events
from ..errors import (
    BadInputError,
    DatabaseReadOnlyError,
    MetricOfOtherAdapterError,
    MetricRecordedTwiceError,
    UnknownReferenceError,
)
from ..records import EVALUATIONS, require_count, require_within
from ..records.evaluation import (
    SETTING,
    Evaluation,
    RecordedEvaluations,
    WithdrawnEvaluations,
    key_of,
    parse_metric,
    setting_of,
)
from ..records.references import resolve_adapter
from ..records.tokens import require_may_change, require_role
from ..records.views import evaluation_records, missing_evaluations, stands
from .harness_results import MEASURED, MetricValue, Results, require_measured

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


EVALUATED = "adapter.evaluated"

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*_v[1-9][0-9]*_[0-9]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = re.compile(r"[\s,=/\\]+")
_MOST_PIECES = 200  # Of the texts that name a model; a command line of a harness has a few dozen


def record_evaluations(
    workspace: Workspace,
    reference: str,
    results: Results,
    *,
    file: str | None = None,
    dry_run: bool = False,
    **setting: str | int | None,
) -> RecordedEvaluations:
    """Record what was measured of an adapter; all of it or nothing."""
    name = MEASURED if file is None else Path(file).name
    measured = [_settled(measurement, setting, name) for measurement in results.measured]
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        _require_own(session, adapter, results, name, file or "RESULTS.json")
        new, recorded_metrics = _missing(adapter, measured)
        rows = evaluation_rows(workspace, session, [(measurement, results.source) for measurement in new])
        if rows and not dry_run:
            require_may_change(workspace, session, "evaluation", adapter)
            write_evaluations(workspace, session, adapter, rows)
        records = evaluation_records(adapter.name, rows)
        return RecordedEvaluations(adapter.name, results.form, records, tuple(recorded_metrics), dry_run)


def evaluation_rows(
    workspace: Workspace, session: Session, measured: Sequence[tuple[MetricValue, str | None]]
) -> list[tables.EvaluationRow]:
    """Return rows of values, each with the digest of the file that said it."""
    common = {"at": workspace.database.utcnow(session), "by": workspace.actor}
    return [tables.EvaluationRow(**asdict(value), source=source, **common) for value, source in measured]


def write_evaluations(
    workspace: Workspace, session: Session, adapter: tables.AdapterRow, rows: Sequence[tables.EvaluationRow]
) -> None:
    """Record evaluations of an adapter and their log entry, in the caller's write transaction."""
    require_within(adapter.name, "evaluations", EVALUATIONS, [*adapter.evaluations, *rows])
    adapter.evaluations.extend(rows)
    session.flush()
    events.record(
        session,
        EVALUATED,
        "adapter",
        adapter.name,
        {
            "digest": adapter.digest,
            "sources": sorted({row.source for row in rows if row.source is not None}),
            "metrics": [{"metric": row.metric, "value": row.value} for row in rows],
        },
        at=rows[0].at,
    )


def list_evaluations(
    workspace: Workspace,
    reference: str | None = None,
    *,
    metric: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[Evaluation]:
    """Return evaluations in the order in which they were recorded; with a limit, the newest ones."""
    row, adapter = tables.EvaluationRow, tables.AdapterRow
    query = select(row, adapter.name).join(adapter, adapter.id == row.adapter_id)
    query = query.where(row.withdrawn_at.is_(None))
    with workspace.database.read() as session:
        if reference is not None:
            named = select(tables.TaskRow.id).where(tables.TaskRow.name == reference.strip().casefold())
            task = session.scalar(named)
            of_task = adapter.task_id == task
            query = query.where(of_task if task else adapter.id == resolve_adapter(session, reference).id)
        if metric is not None:
            query = query.where(row.metric == parse_metric(metric))
        rows = session.execute(query.order_by(row.id.desc()).limit(limit).offset(offset or None)).all()
        return [
            record
            for evaluation_row, name in reversed(rows)
            for record in evaluation_records(name, [evaluation_row])
        ]


def _missing(
    adapter: tables.AdapterRow, measured: Sequence[MetricValue]
) -> tuple[list[MetricValue], list[str]]:
    own = {key_of(asdict(measurement)): measurement for measurement in measured}
    new, recorded_metrics, others = missing_evaluations(adapter, map(asdict, measured))
    if others:
        row = others[0]
        on = setting_of(row)
        value, where = own[key_of(row)].value, f" ({on})" if on else ""
        message = f"{row.metric} of {adapter.name} is recorded as {row.value:g}{where}, not as {value:g}"
        hint = "of another measurement, say what is different: --seed N, --split or --dataset"
        raise MetricRecordedTwiceError(message, hint=f"{hint}; fusery eval list {adapter.name}")
    require_count(adapter.name, "evaluations", EVALUATIONS, len(adapter.evaluations) + len(new))
    return [own[key_of(values)] for values in new], recorded_metrics


def _settled(measurement: MetricValue, setting: Mapping[str, str | int | None], name: str) -> MetricValue:
    given: Mapping[str, Any] = {field: wanted for field, wanted in setting.items() if wanted is not None}
    for field, wanted in given.items():
        if (own := getattr(measurement, field)) not in ("", None, wanted):
            message = f"{name} says that the {field} of {measurement.metric} is {own}, not {wanted}"
            raise BadInputError(message, hint=f"leave --{field} out")
    settled = replace(measurement, **given)
    require_measured(settled, name)
    return settled


def _require_own(
    session: Session, adapter: tables.AdapterRow, measured_results: Results, name: str, file: str
) -> None:
    names, digests = set[str](), set[str]()
    texts = (text[:10_000].lower() for text in measured_results.described_metrics)
    pieces = (piece for text in texts for piece in _PIECE.split(text) if piece)
    for piece in islice(pieces, _MOST_PIECES):
        names |= set(_NAME.findall(piece.removeprefix("adapters_"))[:1])
        digests |= set(_DIGEST.findall(piece)[:1])
    row = tables.AdapterRow
    named_adapters = session.execute(
        select(row.name, row.digest).where(or_(row.name.in_(names), row.digest.in_(digests))).order_by(row.id)
    ).all()
    others = [named_adapter for named_adapter in named_adapters if named_adapter.digest != adapter.digest]
    if others and len(others) == len(named_adapters):
        other = others[0].name
        message = f"{name} names {other}, not {adapter.name}"
        raise MetricOfOtherAdapterError(message, hint=f"fusery eval record {other} {typed(file)}")


AGAIN = "measured again"  # Why a value of the same measurement is withdrawn


def record_own(
    workspace: Workspace, measured: Sequence[tuple[int, Sequence[MetricValue]]], reporter: Reporter
) -> None:
    """Record values of adapters, each by the number of its row; a registry that can only be read stays as it is."""
    try:
        with workspace.database.write() as session:
            for number, values in measured:
                adapter = session.get_one(tables.AdapterRow, number)
                if put_own(workspace, session, adapter, values)[0]:
                    reporter.say(f"on record: fusery eval list {adapter.name}")
    except DatabaseReadOnlyError:
        reporter.say("not put on record: this registry may only be read here")


def put_own(
    workspace: Workspace, session: Session, adapter: tables.AdapterRow, measured: Sequence[MetricValue]
) -> tuple[list[tables.EvaluationRow], list[str]]:
    """Record values of an adapter, in the caller's write transaction; return the new rows, and the metrics that were known."""
    own = {key_of(asdict(measurement)): measurement for measurement in measured}
    new, recorded_metrics, others = missing_evaluations(adapter, map(asdict, own.values()))
    keys = [key_of(values) for values in new] + [key_of(row) for row in others]
    if not keys or len(adapter.evaluations) + len(keys) > EVALUATIONS:
        return [], recorded_metrics
    rows = evaluation_rows(workspace, session, [(own[key], None) for key in keys])
    if others:
        withdraw_rows(session, adapter, others, reason=AGAIN, at=rows[0].at, by=workspace.actor)
    write_evaluations(workspace, session, adapter, rows)
    return rows, recorded_metrics


WITHDRAWN = "adapter.evaluation_withdrawn"


def withdraw_evaluations(
    workspace: Workspace,
    reference: str,
    metric: str | None = None,
    *,
    reason: str,
    dataset: str | None = None,
    split: str | None = None,
    harness: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
) -> WithdrawnEvaluations:
    """Withdraw those of an adapter's evaluations that fit all that is said."""
    require_text("reason", reason, LIMITS["note"])
    if not reason.strip():
        raise BadInputError("a withdrawal needs a reason", hint="--reason 'of another adapter'")
    given = {"dataset": dataset, "split": split, "harness": harness, "seed": seed, "metric": metric}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        hint = "give the metric's name, --dataset, --split, --harness or --seed"
        raise BadInputError("nothing says which evaluations to withdraw", hint=hint)
    if metric is not None:
        parse_metric(metric)
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        rows = [
            row
            for row in adapter.evaluations
            if stands(row) and all(getattr(row, name) == value for name, value in wanted.items())
        ]
        if not rows:
            message = f"nothing like that is on record as measured of {adapter.name}"
            raise UnknownReferenceError(message, hint=f"fusery eval list {adapter.name}")
        evaluations = WithdrawnEvaluations(
            adapter.name, evaluation_records(adapter.name, rows), str(without_credentials(reason)), dry_run
        )
        if not dry_run:
            if not all(person(row.by) == person(workspace.actor) for row in rows):
                require_role(workspace, "approver", "the evaluation of another")
            at, reason = workspace.database.utcnow(session), evaluations.reason
            withdraw_rows(session, adapter, rows, reason=reason, at=at, by=workspace.actor)
        return evaluations


def withdraw_rows(
    session: Session,
    adapter: tables.AdapterRow,
    rows: Sequence[tables.EvaluationRow],
    *,
    reason: str,
    at: datetime,
    by: str,
) -> None:
    """Withdraw evaluations, and record their values in the log, in the caller's write transaction."""
    for row in rows:
        row.withdrawn_at, row.withdrawn_by, row.withdrawn_reason = at, by, reason
    require_within(adapter.name, "evaluations", EVALUATIONS, adapter.evaluations)
    session.flush()
    events.record(
        session,
        WITHDRAWN,
        "adapter",
        adapter.name,
        {
            "digest": adapter.digest,
            "reason": reason,
            "metrics": [
                {
                    name: value
                    for name in ("metric", "value", *SETTING)
                    if (value := getattr(row, name)) not in (None, "")
                }
                for row in rows
            ],
        },
        actor=by,
        at=at,
    )
