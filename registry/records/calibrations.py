"""Calibrations on record: how one gets there, what is known of it, and its file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError

from .. import tables
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from .bases import blob_generations

if TYPE_CHECKING:
    from ..workspace import Workspace

CALIBRATION = "calibration.safetensors"
"""What the file is called in its manifest."""


@dataclass(frozen=True, slots=True)
class CalibrationReport(Record):
    """A calibration that was made, or was there already.

    Attributes:
        adapter: name of the adapter that it is for, where scales and biases were learned for that one's fused model.
        before: how far that model's answers were from those of base + adapter, in nats per token, on texts put aside.
        after: the same with what was learned.  Both are null of one that was there already.
    """

    base: str = described("name of the base")
    digest: str = described("digest of the calibration")
    prompts: str = described("`built-in`, or the name of the file it was made from")
    tokens: int = described("number that were read")
    rank: int = described("most directions stored per input")
    bytes: int = described("size of its file")
    engine: str = described("which mlx-lm ran the base")
    created: bool = described("whether it is new")
    seconds: float = described("duration in seconds")
    adapter: str | None = None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a calibration is made from, and for what.

    Attributes:
        prompts: name of the texts.
        prompts_digest: of the texts.
        rank: directions per input.
        adapter: digest of the adapter that it is for; None for all on the base.
    """

    prompts: str
    prompts_digest: Digest
    rank: int
    adapter: str | None = None


def known_calibration(
    workspace: Workspace, base: tables.BaseModel, reading: Reading, *, among: Collection[str] | None = None
) -> CalibrationReport | None:
    """Return what is there already; what the store has lost is not, and is made anew.

    Args:
        workspace: the registry's parts.
        base: its row.
        reading: what it would be made from.
        among: digests of those that count; None for all.
    """
    table = tables.Calibration
    query = select(table).where(
        table.base_id == base.id,
        table.prompts_digest == reading.prompts_digest,
        table.rank == reading.rank,
        table.adapter == reading.adapter,
    )
    if among is not None:
        query = query.where(table.digest.in_(among))
    with workspace.database.read() as session:
        row = session.scalars(query.order_by(table.id.desc())).first()
        if row is None:
            return None
        report, file = calibration_report(row, created=False, seconds=0.0), _file(row)
        blob, size = Digest(file.sha256), file.size
    generation = blob_generations(workspace, [blob])[blob]
    try:
        workspace.store.verify(blob, size, generation=generation)
    except (BlobMissingError, BlobCorruptError):
        return None
    return report


def record_calibration(
    workspace: Workspace,
    session: Session,
    manifest: tables.Manifest,
    base: tables.BaseModel,
    reading: Reading,
    *,
    tokens: int,
    engine: str,
) -> tuple[tables.Calibration, bool]:
    """Return a calibration's record, and whether it is new."""
    table = tables.Calibration
    known = session.scalars(
        select(table).where(table.base_id == base.id, table.digest == manifest.digest)
    ).first()
    if known is not None:
        return known, False
    now = workspace.database.utcnow(session)
    row = table(
        base=base,
        digest=manifest.digest,
        manifest=manifest,
        prompts=reading.prompts,
        prompts_digest=reading.prompts_digest,
        tokens=tokens,
        rank=reading.rank,
        engine=engine,
        adapter=reading.adapter,
        created_at=now,
        created_by=workspace.actor,
    )
    session.add(row)
    session.flush()
    own = {} if reading.adapter is None else {"adapter": reading.adapter}
    events.record(
        session,
        action="base.calibrated",
        kind="base",
        subject=base.digest,
        detail={
            "calibration": row.digest,
            "prompts": row.prompts,
            "tokens": tokens,
            "rank": reading.rank,
            **own,
        },
        actor=workspace.actor,
        at=now,
    )
    return row, True


def calibration_report(row: tables.Calibration, *, created: bool, seconds: float) -> CalibrationReport:
    """Return what is said of a calibration's record."""
    return CalibrationReport.from_row(
        row, base=row.base.name, bytes=_file(row).size, created=created, seconds=round(seconds, 3)
    )


def _file(row: tables.Calibration) -> tables.ManifestFile:
    return next(file for file in row.manifest.files if file.path == CALIBRATION)


def require_of_base(session: Session, digest: str, base: tables.BaseModel) -> None:
    """Refuse a calibration that is on record of other bases only: what it knows of their layers is not so of this one's.

    The record says whose it is, and not its file, which has the digest that the base had where it was made.

    Args:
        session: reads the database.
        digest: of the calibration, all of it.
        base: the base's row, with its names loaded.

    Raises:
        BadInputError: it is one of another base, in which other numbers are.
    """
    made = tables.Calibration
    owners = [
        row.base for row in session.scalars(select(made).where(made.digest == digest).order_by(made.id))
    ]
    if owners and not any(
        owner.id == base.id or owner.content == base.content is not None for owner in owners
    ):
        raise BadInputError(
            f"the calibration {digest[:12]} is of the base {owners[0].name}, and not of {base.name}",
            hint=f"fusery base calibrate {base.name}, and fuse without that recipe",
        )


def fetch_calibration(
    workspace: Workspace, digest: str, target: Path, *, base: tables.BaseModel | None = None
) -> Path:
    """Write the file of a calibration to `target`, verified, and return that.

    Args:
        workspace: the registry's parts.
        digest: of the calibration, all of it.
        target: a file that is not there yet.
        base: whose calibration it has to be; None for anybody's.

    Raises:
        UnknownReferenceError: there is no such calibration.
        BadInputError: it is one of another base.
        BlobMissingError: the store lacks it.
        BlobCorruptError: it is damaged in the store.
    """
    with workspace.database.read() as session:
        if base is not None:
            require_of_base(session, digest, base)
        query = select(tables.Calibration).where(tables.Calibration.digest == digest)
        row = session.scalars(query.order_by(tables.Calibration.id)).first()
        if row is None:
            raise UnknownReferenceError(
                f"there is no calibration {digest[:12]}", hint="fusery base show BASE lists them"
            )
        blob = Digest(row.manifest.files[0].sha256)
    generation = blob_generations(workspace, [blob])[blob]
    workspace.store.fetch(blob, target, generation=generation)
    return target
