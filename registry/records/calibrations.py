"""Calibrations on record: how one gets there, what is known of it, and its file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError
from fusery.storage.interface import Blob
from fusery.storage.jsonfile import parse_json
from fusery.storage.safetensors import ADAPTER_HEADER_LIMIT, METADATA

from .. import tables
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..models.architecture import Architecture
from ..record import Record, described
from ..workspace.workspace import Workspace
from .bases import blob_generations

CHOSEN = "base.calibration_chosen"
_LENGTH = 8


def current_calibration(session: Session, base: tables.BaseModelRow) -> tables.CalibrationRow | None:
    """Return a base's calibration for all adapters: the newest, unless an older one was asked for since; None without one."""
    rows = [row for row in base.calibrations if row.adapter is None]
    if len(rows) < 2:
        return rows[0] if rows else None
    choice_events = events.history(session, kind="base", subject=base.digest, action=CHOSEN, limit=1)
    chosen = json.loads(choice_events[0].detail) if choice_events else {}
    if chosen.get("newest") != rows[-1].digest:
        return rows[-1]
    return next((row for row in rows if row.digest == chosen.get("calibration")), rows[-1])


def choose_calibration(session: Session, row: tables.CalibrationRow) -> tables.CalibrationRow | None:
    """Make a recorded calibration the current one, by an entry of the log; return the one before, None if it was this one."""
    before = current_calibration(session, row.base)
    if before is None or before.id == row.id:
        return None
    newest = [made.digest for made in row.base.calibrations if made.adapter is None][-1]
    detail = {"calibration": row.digest, "prompts": row.prompts, "newest": newest}
    events.record(session, CHOSEN, "base", row.base.digest, detail)
    return before


def learned_with(workspace: Workspace, adapter: str, base: tables.CalibrationRow) -> list[Digest]:
    """Return the calibrations for one adapter that were learned with a calibration of its base, or cannot be read, newest first."""
    made = tables.CalibrationRow
    with workspace.database.read() as session:
        query = select(made).where(made.base_id == base.base_id, made.rank == base.rank)
        rows = session.scalars(query.where(made.adapter == adapter).order_by(made.id.desc()))
        files = [(Digest(row.digest), row.manifest.files[0].entry) for row in rows]
    generations = blob_generations(workspace, [file.sha256 for _, file in files])
    digests = []
    for digest, file in files:
        blob = Blob(file.sha256, file.size, generations[file.sha256])
        try:
            length = int.from_bytes(b"".join(workspace.store.span(blob, 0, _LENGTH)), "little")
            if length <= min(file.size - _LENGTH, ADAPTER_HEADER_LIMIT):
                data = b"".join(workspace.store.span(blob, _LENGTH, _LENGTH + length))
                about = parse_json(data, "the header")[METADATA]
                if (about["prompts"], about["tokens"]) != (base.prompts_digest, str(base.tokens)):
                    continue
        except (StorageError, KeyError, TypeError):
            pass  # it cannot be read
        digests.append(digest)
    return digests


CALIBRATION = "calibration.safetensors"


class CalibrationReport(Record, kw_only=False):
    """A calibration that was made, or was there already."""

    base: str = described("name of the base")
    digest: str = described("digest of the calibration")
    prompts: str = described("`built-in`, or the name of the file it was made from")
    tokens: int = described("number that were read", unit="token", words=", {}")
    rank: int = described("most directions stored per input", title="directions of each input")
    bytes: int = described("size of its file", title="size", kind="size")
    engine: str = described("which mlx-lm ran the base")
    created: bool = described("whether it is new")
    seconds: float = described("duration in seconds")
    adapter: str | None = described("adapter whose scales it learned", title="for", brief=True, default=None)
    before: float | None = described(
        "nats per token from base + adapter", words=" nats a token, and {} before", default=None
    )
    after: float | None = described(
        "the same with what was learned; None if it existed", title="off by", brief=True, default=None
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The inputs of a calibration: texts, directions per input, and the digest of an adapter if it is for one."""

    prompts: str
    prompts_digest: Digest
    rank: int
    adapter: str | None = None


def recorded_calibration(
    workspace: Workspace, base: tables.BaseModelRow, reading: Reading, *, among: Collection[str] | None = None
) -> CalibrationReport | None:
    """Return the recorded calibration; None without one, or if the store has lost its file."""
    table = tables.CalibrationRow
    query = select(table).where(table.base_id == base.id, table.prompts_digest == reading.prompts_digest)
    query = query.where(table.rank == reading.rank, table.adapter == reading.adapter)
    if among is not None:
        query = query.where(table.digest.in_(among))
    with workspace.database.read() as session:
        row = session.scalars(query.order_by(table.id.desc())).first()
        if row is None:
            return None
        report, file = calibration_report(row, created=False, seconds=0.0), row.manifest.files[0]
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
    manifest: tables.ManifestRow,
    base: tables.BaseModelRow,
    reading: Reading,
    *,
    tokens: int,
    engine: str,
) -> tuple[tables.CalibrationRow, bool]:
    """Return a calibration's record, and whether it is new."""
    table = tables.CalibrationRow
    existing = session.scalar(select(table).where(table.base_id == base.id, table.digest == manifest.digest))
    if existing is not None:
        return existing, False
    now = workspace.database.utcnow(session)
    row = table(
        **asdict(reading),
        base=base,
        digest=manifest.digest,
        manifest=manifest,
        tokens=tokens,
        engine=engine,
        created_at=now,
        created_by=workspace.actor,
    )
    session.add(row)
    session.flush()
    detail = {"calibration": row.digest, "prompts": row.prompts, "tokens": tokens, "rank": row.rank}
    detail |= {} if row.adapter is None else {"adapter": row.adapter}
    events.record(session, "base.calibrated", "base", base.digest, detail, at=now)
    return row, True


def calibration_facts(
    path: Path, name: str, base: str, adapter: str | None, architecture: Architecture | None
) -> Mapping[str, Any]:
    """Return the facts of a calibration of another registry, computed from its file."""
    from ..engine.calibration import read_calibration

    hint = "nothing of it was recorded; fusery audit, on the other registry"
    calibration = read_calibration(path)
    if calibration.base != base:
        raise BadInputError(f"{name} was made of another base: {calibration.base[:12]}", hint=hint)
    for module in calibration.modules if architecture is not None else ():
        width, weight = calibration.width_of(module), architecture.weights.get(module)  # type: ignore[union-attr]
        # Plain numbers are not rounded, and may be transposed in the file.
        if weight is None or weight.bits is None or (len(weight.shape) == 2 and weight.shape[1] == width):
            continue
        raise BadInputError(f"{name} does not fit its base: {module[:80]} has not {width} inputs", hint=hint)
    for module in {input_id: module for module, input_id in calibration.modules.items()}.values():
        calibration.of(module)  # raises where its numbers cannot be used
    learned = calibration.learned
    if adapter != (learned.adapter if learned is not None else None):
        raise BadInputError(f"{name} was learned for another adapter than the package declares", hint=hint)
    made = calibration if learned is None else learned
    return {"tokens": made.tokens, "prompts_digest": made.prompts, "adapter": adapter}


def calibration_report(row: tables.CalibrationRow, *, created: bool, seconds: float) -> CalibrationReport:
    """Return what is said of a calibration's record."""
    return CalibrationReport.from_row(
        row, base=row.base.name, bytes=row.manifest.files[0].size, created=created, seconds=round(seconds, 3)
    )


def require_of_base(session: Session, digest: str, base: tables.BaseModelRow) -> None:
    """Refuse a calibration that is recorded for other bases only: the file does not say whose it is."""
    made = tables.CalibrationRow
    rows = session.scalars(select(made).where(made.digest == digest).order_by(made.id))
    owners = [row.base for row in rows]
    same = (owner.id == base.id or owner.content == base.content is not None for owner in owners)
    if owners and not any(same):
        problem = f"the calibration {digest[:12]} is of the base {owners[0].name}, and not of {base.name}"
        raise BadInputError(problem, hint=f"fusery base calibrate {base.name}, and fuse without that recipe")


def fetch_calibration(
    workspace: Workspace, digest: str, target: Path, *, base: tables.BaseModelRow | None = None
) -> Path:
    """Write the file of a calibration to `target`, verified, and return that."""
    with workspace.database.read() as session:
        if base is not None:
            require_of_base(session, digest, base)
        query = select(tables.CalibrationRow).where(tables.CalibrationRow.digest == digest)
        row = session.scalars(query.order_by(tables.CalibrationRow.id)).first()
        if row is None:
            raise UnknownReferenceError(f"calibration not found: {digest[:12]}", hint="fusery base show BASE")
        blob = Digest(row.manifest.files[0].sha256)
    generation = blob_generations(workspace, [blob])[blob]
    workspace.store.fetch(blob, target, generation=generation)
    return target
