"""Read an adapter's document as a submission, with its amendments; record the training run of a document or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from fusery.storage.digest import parse_digest
from fusery.storage.errors import FuseryError

from .. import tables
from ..adapters import WEIGHTS, Finding
from ..adapters.folder import AdapterFolder
from ..admission.code import TRAINING_CODES
from ..admission.submission import DECLARED, Submission, TrainedOn
from ..errors import BadInputError
from ..record import column_values
from ..records.adapter_details import CurvePoint
from ..records.amendments import FIELDS, TAG, State, misfits, require_few_amendments, text_of, undone
from ..remote.documents import AdapterDocument
from .amend import accepted
from .training_curve import Curve, Point
from .training_run import Checkpoint, Run, Training

AUDIT_ORIGIN = "fusery audit, on the other registry"


def submission_of(
    document: AdapterDocument,
    *,
    base: str,
    parent: str | None = None,
    alpha: float | None = None,
    folder: AdapterFolder | None = None,
) -> Submission:
    """Return the values declared at registration, without later amendments."""
    first = first_state(document)
    declared = {name for name, declaration in DECLARED.items() if not declaration.later}
    values = {name: value for name, value in first.items() if name in declared}
    return Submission(
        **values,
        base=base,
        task=document.task,
        version=document.version,
        alpha=alpha,
        parent=parent,
        trained_on=_trained_on(document, folder),
        tags={field.removeprefix(TAG): value for field, value in first.items() if field.startswith(TAG)},
        base_all_names=document.base_names,
    )


def _trained_on(document: AdapterDocument, folder: AdapterFolder | None) -> TrainedOn | None:
    name, digest, names = document.trained_on, document.trained_on_digest, set(document.trained_on_names)
    if name is None or digest is None:
        if name != digest:
            message = f"{document.name}: the base model it was trained on needs a name and a digest"
            raise BadInputError(message, hint=AUDIT_ORIGIN)
        return None
    if not names and folder is not None:
        names = {base_name for base_name in (folder.config.model, folder.metadata.base_model) if base_name}
    return TrainedOn(name, parse_digest(digest), frozenset(names))


def state_of_document(document: AdapterDocument) -> State:
    """Return the values of the amendable fields; see `records.amendments.state_of`."""
    tags = {f"{TAG}{key}": value for key, value in document.tags.items()}
    return {field: getattr(document, field) for field in FIELDS} | tags


def first_state(document: AdapterDocument) -> State:
    """Return the values of the amendable fields before any amendment."""
    return undone(state_of_document(document), amendment_rows(document))


def amendment_rows(document: AdapterDocument, now: datetime | None = None) -> list[tables.AmendmentRow]:
    """Return rows for the amendments, effective at `now` at the latest."""
    return [
        tables.AmendmentRow(
            field=amendment.field,
            before=text_of(amendment.from_),
            after=text_of(amendment.to),
            reason=amendment.reason,
            at=min(amendment.at, now or amendment.at),
            since=min(amendment.since, now or amendment.since),
            by=amendment.by,
        )
        for amendment in document.amendments
    ]


def require_fitting(document: AdapterDocument) -> None:
    """Refuse amendments that contradict one another or their record."""
    rows = amendment_rows(document)
    require_few_amendments(document.name, rows)
    for amendment in document.amendments:
        try:
            for value in (amendment.from_, amendment.to):
                if text_of(accepted(amendment.field, value)) != text_of(value):
                    raise ValueError
        except (ValueError, TypeError, FuseryError) as error:
            message = f"invalid amendment of {document.name}: {amendment.field[:60]}"
            raise BadInputError(message, hint=AUDIT_ORIGIN) from error
    for problem in misfits(state_of_document(document), rows):
        raise BadInputError(f"{document.name}: {problem}", hint=AUDIT_ORIGIN)


def training_findings(
    document: AdapterDocument, folder: AdapterFolder, submission: Submission
) -> Iterator[Finding]:
    """Yield findings about a recorded training run, and those of the other registry, which can only count against it."""
    record, findings = document.training_run, list[Finding]()
    if record is not None:
        points = [Point(p.iteration, p.train_loss, p.val_loss, p.learning_rate) for p in document.curve]
        for measured in (record.best, record.last):
            if measured is not None and measured.iteration is not None and measured.val_loss is not None:
                points.append(Point(measured.iteration, val_loss=measured.val_loss))
        curve, end = Curve.of(points), record.checkpoint
        saved = {*curve.validations, *(() if end is None else (end,))}
        run = Run(
            name=document.name,
            checkpoints=tuple(Checkpoint(at, f"{at:07d}_adapters.safetensors") for at in sorted(saved)),
            curve=curve,
            source=record.source,  # type: ignore[arg-type]
            state=record.state,  # type: ignore[arg-type]
            log="its training curve",
        )
        training = Training(run, Checkpoint(end, folder.path.name), record.chosen)  # type: ignore[arg-type]
        findings += training.findings(folder, submission)
    yield from findings
    reported = {finding.code for finding in document.findings} - {finding.code for finding in findings}
    message = "reported by the registry where it was registered, about files that are not kept"
    for code in TRAINING_CODES:
        if code.name in reported:
            yield code.finding("training", message)


def record_training(session: Session, adapter: tables.AdapterRow, document: AdapterDocument) -> None:
    """Record the training run and the curve of a document."""
    if document.training_run is not None:
        values = column_values(document.training_run, tables.TrainingRunRow.__table__)
        session.add(tables.TrainingRunRow(adapter_id=adapter.id, **values))
    _record_curve(session, adapter, document.curve)


def record_run(session: Session, adapter: tables.AdapterRow, training: Training) -> None:
    """Record the facts of an adapter's run, and its curve up to the checkpoint, in the caller's transaction."""
    run, data, iteration = training.run, training.data, training.checkpoint.iteration
    record, best, last = run.record, run.curve.best(), run.curve.last()
    session.add(
        tables.TrainingRunRow(
            adapter_id=adapter.id,
            checkpoint=iteration,
            chosen=training.chosen,
            last_iteration=run.last_iteration,
            last_val_loss=last[1] if last else None,
            best_iteration=best[0] if best else None,
            best_val_loss=best[1] if best else None,
            state=run.state,
            source=run.source,
            started_at=record.started() if record else None,
            seconds=record.seconds if record else None,
            trained_tokens=run.curve.trained_tokens,
            peak_memory=run.peak_memory,
            git_commit=record.git.commit if record and record.git else None,
            git_dirty=record.git.dirty if record and record.git else None,
            machine=record.machine.model_dump() if record and record.machine else None,
            versions=dict(record.versions) if record else None,
            arguments=dict(record.arguments) if record else None,
            dataset_files=[file.model_dump() for file in data.files] if data and data.files else None,
        )
    )
    _record_curve(session, adapter, run.curve.until(iteration).points)


def _record_curve(session: Session, adapter: tables.AdapterRow, points: Sequence[Point | CurvePoint]) -> None:
    names = ("iteration", "train_loss", "val_loss", "learning_rate")
    rows = [{"adapter_id": adapter.id, **{name: getattr(point, name) for name in names}} for point in points]
    if rows:
        session.execute(insert(tables.CurvePointRow), rows)


def adapter_with_weights(session: Session, digest: str) -> tables.AdapterRow | None:
    """Return the adapter whose weights have a digest, the first one registered of several."""
    query = (
        select(tables.AdapterRow)
        .join(tables.ManifestFileRow, tables.ManifestFileRow.manifest_id == tables.AdapterRow.manifest_id)
        .where(tables.ManifestFileRow.sha256 == digest, tables.ManifestFileRow.path == WEIGHTS)
        .order_by(tables.AdapterRow.id)
    )
    return session.scalars(query).first()
