"""A run's facts in the database, and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.files import WEIGHTS
from ..errors import BadInputError
from ..parsing import plural
from ..records.adapter_details import CurvePoint
from .checkpoint_selection import CheckpointChoice
from .run_folder import Run
from .training_curve import sparkline


def record_run(session: Session, adapter: tables.AdapterRow, run: Run, choice: CheckpointChoice) -> None:
    """Record the facts of an adapter's run, and its curve up to the checkpoint, in the caller's transaction."""
    record, best, last = run.record, run.curve.best(), run.curve.last()
    data = record.dataset if record else None
    session.add(
        tables.TrainingRunRow(
            adapter_id=adapter.id,
            checkpoint=choice.checkpoint.iteration,
            chosen=choice.chosen,
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
    points = run.curve.until(choice.checkpoint.iteration).points
    if points:
        rows = [
            {
                "adapter_id": adapter.id,
                "iteration": point.iteration,
                "train_loss": point.train_loss,
                "val_loss": point.val_loss,
                "learning_rate": point.learning_rate,
            }
            for point in points
        ]
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


def recorded_points(adapter: tables.AdapterRow) -> tuple[CurvePoint, ...]:
    """Return the recorded curve of an adapter as records."""
    return tuple(map(CurvePoint.from_row, adapter.curve))


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], plot: Path, *, force: bool) -> Path:
    """Draw the curves of adapters, by name, to a file; return the file's path."""
    from ..charts.curves import draw
    from ..documents import picture_kind, write_picture

    kind, place = picture_kind(plot), plot.expanduser().absolute()
    if not any(curves.values()):
        raise BadInputError(
            f"there is no training curve on record for {', '.join(curves)}",
            hint="register with what the trainer printed: fusery register DIR --log FILE",
        )
    write_picture(place, draw(curves, kind), force=force)
    return place


def curve_line(rows: Sequence[CurvePoint]) -> str:
    """Return one line for people: the validation losses, or the training losses where there was no validation."""
    validated = [point.val_loss for point in rows if point.val_loss is not None]
    trained = [point.train_loss for point in rows if point.train_loss is not None]
    losses, kind = (validated, "validation") if len(validated) > 1 else (trained, "training")
    if len(losses) < 2:
        return ""
    return (
        f"{sparkline(losses)}  {losses[0]:.3f} to {losses[-1]:.3f} ({kind}, {plural(len(losses), 'point')})"
    )
