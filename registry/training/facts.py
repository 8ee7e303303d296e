"""A run's facts in the database, and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.files import WEIGHTS
from ..errors import BadInputError
from ..parsing import plural
from ..records.run import Commit, CurvePoint, Measured, TrainingRun
from .checkpoint import Choice
from .curve import Curve, Point, curve_from, point_view, sparkline
from .run_folder import Run


def record_run(session: Session, adapter: tables.Adapter, run: Run, choice: Choice) -> None:
    """Record the facts of an adapter's run, and its curve up to the checkpoint, in the caller's transaction."""
    record, best, last = run.record, run.curve.best(), run.curve.last()
    data = record.dataset if record else None
    session.add(
        tables.TrainingRun(
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
        # Every row names every column: rows that name others than the one before begin another statement.
        row = {"adapter_id": adapter.id, "train_loss": None, "val_loss": None, "learning_rate": None}
        session.execute(insert(tables.CurvePoint), [row | point_view(point) for point in points])


def adapter_with_weights(session: Session, digest: str) -> tables.Adapter | None:
    """Return the adapter whose weights have a digest, the first one registered of several."""
    query = (
        select(tables.Adapter)
        .join(tables.ManifestFile, tables.ManifestFile.manifest_id == tables.Adapter.manifest_id)
        .where(tables.ManifestFile.sha256 == digest, tables.ManifestFile.path == WEIGHTS)
        .order_by(tables.Adapter.id)
    )
    return session.scalars(query).first()


def recorded_curve(adapter: tables.Adapter) -> Curve:
    """Return the recorded curve of an adapter; empty if there is none."""
    return Curve.of(
        Point(row.iteration, row.train_loss, row.val_loss, row.learning_rate) for row in adapter.curve
    )


def recorded_points(adapter: tables.Adapter) -> tuple[CurvePoint, ...]:
    """Return the recorded curve of an adapter as records."""
    return tuple(CurvePoint(**point_view(point)) for point in recorded_curve(adapter).points)


def run_record(adapter: tables.Adapter) -> TrainingRun | None:
    """Return the record of an adapter's run, None if nothing is known of one."""
    run = adapter.run
    if run is None:
        return None
    best = Measured(iteration=run.best_iteration, val_loss=run.best_val_loss)
    return TrainingRun.from_row(
        run,
        best=None if run.best_iteration is None else best,
        last=Measured(iteration=run.last_iteration, val_loss=run.last_val_loss),
        git=Commit(commit=run.git_commit, dirty=run.git_dirty) if run.git_commit else None,
        dataset_files=None if run.dataset_files is None else tuple(run.dataset_files),
    )


def draw_curve(name: str, rows: Sequence[CurvePoint], plot: Path, *, force: bool) -> str:
    """Draw an adapter's curve to a file; return the file's path.

    Raises:
        BadInputError: there is no curve, or the picture's ending is not known.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a PNG needs the extra `plot`, which is not installed.
        StorageError: the picture cannot be written.
    """
    from ..charts.curves import draw
    from ..charts.files import picture_kind
    from ..documents import write_picture

    kind, place = picture_kind(plot), plot.expanduser().absolute()
    if not rows:
        raise BadInputError(
            f"there is no training curve on record for {name}",
            hint="register with what the trainer printed: fusery register DIR --log FILE",
        )
    write_picture(place, draw({name: rows}, kind), force=force)
    return str(place)


def curve_line(rows: Sequence[CurvePoint]) -> str:
    """Return one line for people: the validation losses, or the training losses where there was no validation."""
    curve = curve_from(rows)
    validated = [point.val_loss for point in curve.points if point.val_loss is not None]
    trained = [point.train_loss for point in curve.points if point.train_loss is not None]
    losses, kind = (validated, "validation") if len(validated) > 1 else (trained, "training")
    if len(losses) < 2:
        return ""
    return (
        f"{sparkline(losses)}  {losses[0]:.3f} to {losses[-1]:.3f} ({kind}, {plural(len(losses), 'point')})"
    )
