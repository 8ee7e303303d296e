"""Calibrating: a base reads some text, and statistics of its linear layers' inputs are stored, to shape rounding by.

A calibration belongs to a base and serves all adapters on it.  It is a file in the store (`fusery.registry.engine.calibration`), recorded
with the digest of its manifest, so that whatever is fused with it can say which one it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_json
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..behaviour.prompts import Prompt, for_calibration, read_prompts, tokenise
from ..database import events
from ..engine.calibration import MAX_DIRECTIONS, Directions, rounded, write_calibration
from ..engine.fingerprint import fingerprint
from ..errors import BadInputError
from ..record import Record
from ..records.base_files import base_folder
from ..records.bases import blob_generations
from ..records.deposit import Deposit
from ..records.references import resolve_base
from ..records.scratch import scratch_folder

if TYPE_CHECKING:
    from ..behaviour.moments import Moment
    from ..workspace import Workspace

FILE = "calibration.safetensors"
"""What the file is called in its manifest."""
BUILT_IN = "built-in"
LIMIT = 128
"""How many prompts of a file are read if nobody says."""
RANK = 32
"""The number of directions stored per input."""


@dataclass(frozen=True, slots=True)
class CalibrationReport(Record):
    """The result of `calibrate`.

    Attributes:
        base: name of the base.
        digest: of the calibration.
        prompts: `built-in`, or the name of the file it was made from.
        tokens: number that the base read.
        rank: most directions stored per input.
        bytes: size of its file.
        engine: which mlx-lm ran the base.
        created: it did not exist before.
        seconds: that it took.
    """

    base: str
    digest: str
    prompts: str
    tokens: int
    rank: int
    bytes: int
    engine: str
    created: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a base is to read, and what that is called."""

    prompts: Sequence[Prompt]
    label: str
    digest: Digest
    strict: bool

    @classmethod
    def of(cls, path: Path | None, limit: int) -> _Texts:
        prompts = for_calibration()[:limit] if path is None else read_prompts(path, limit)
        parts = [
            [prompt.text, [dict(message) for message in prompt.messages], prompt.tools] for prompt in prompts
        ]
        # A file may be called what no database keeps.
        label = BUILT_IN if path is None else path.name.encode("utf-8", "replace").decode()[:200]
        return cls(prompts, label, digest_json(parts), strict=path is not None)


def calibrate(
    workspace: Workspace,
    base_reference: str,
    *,
    prompts: Path | None = None,
    limit: int = LIMIT,
    rank: int = RANK,
    reporter: Reporter = SILENT,
) -> CalibrationReport:
    """Run a base over prompts and store statistics of its linear layers' inputs; once for the same prompts and rank.

    Args:
        workspace: the registry's parts.
        base_reference: name or digest prefix of the base.
        prompts: a file of prompts; None for the built-in texts.
        limit: at most this many prompts.
        rank: directions to store per input.
        reporter: hears what is going on, and the tokens run and the total.

    Raises:
        UnknownReferenceError: there is no such base.
        BadInputError: the prompts or the numbers are not usable.
        ModelUnusableError: the base cannot be loaded or run.
        MissingExtraError: mlx-lm is not installed.
        StorageError: the file cannot be written or stored.
    """
    if limit < 1 or not 1 <= rank <= MAX_DIRECTIONS:
        raise BadInputError(
            f"at least one prompt is needed, and 1 to {MAX_DIRECTIONS} directions", hint="leave both out"
        )
    texts, started = _Texts.of(prompts, limit), time.monotonic()
    if (known := _known(workspace, base_reference, texts, rank)) is not None:
        return known
    engine = fingerprint()
    with scratch_folder(workspace) as scratch:
        file = scratch / FILE
        digest, tokens = _write(workspace, base_reference, texts, rank, file, reporter)
        reporter.say("storing")
        deposit = Deposit(workspace.database, workspace.store, workspace.owner())
        deposit.put({FILE: file})
        with deposit.recording() as session:
            base = resolve_base(session, digest)
            row, created = _record(
                workspace, session, deposit.commit(session), base, texts, tokens, rank, engine
            )
            return _report(row, created=created, seconds=time.monotonic() - started)


def _file(row: tables.Calibration) -> tables.ManifestFile:
    return next(file for file in row.manifest.files if file.path == FILE)


def _known(workspace: Workspace, reference: str, texts: _Texts, rank: int) -> CalibrationReport | None:
    """Return what is there already; what the store has lost is not, and is made anew."""
    table = tables.Calibration
    with workspace.database.read() as session:
        base = resolve_base(session, reference)
        row = session.scalars(
            select(table)
            .where(table.base_id == base.id, table.prompts_digest == texts.digest, table.rank == rank)
            .order_by(table.id.desc())
        ).first()
        if row is None:
            return None
        report, file = _report(row, created=False, seconds=0.0), _file(row)
        blob, size = Digest(file.sha256), file.size
    generation = blob_generations(workspace, [blob])[blob]
    try:
        workspace.store.verify(blob, size, generation=generation)
    except (BlobMissingError, BlobCorruptError):
        return None
    return report


def _write(
    workspace: Workspace,
    reference: str,
    texts: _Texts,
    rank: int,
    file: Path,
    reporter: Reporter,
) -> tuple[Digest, int]:
    """Run the base and write what was found; return the base's digest, and how many tokens it read."""
    from ..behaviour.models import Model, load_tokenizer
    from ..behaviour.moments import PASSES, moments

    with workspace.database.read() as session:
        digest = Digest(resolve_base(session, reference).digest)
    with base_folder(workspace, digest) as folder:
        samples = tokenise(texts.prompts, load_tokenizer(folder), strict=texts.strict)
        tokens = sum(len(sample.tokens) for sample in samples)
        reporter.say(f"the base reads {tokens:,} tokens, {PASSES} times")
        found = moments(Model.load(folder, numpy=True), samples, rank, progress=reporter.progress)
    ids = {key: str(number) for number, key in enumerate(sorted(found.inputs))}
    inputs = {ids[key]: _kept(moment) for key, moment in found.inputs.items()}
    modules = {path: ids[key] for path, key in found.modules.items()}
    write_calibration(file, inputs, modules, base=digest, tokens=tokens, prompts=texts.digest)
    return digest, tokens


def _kept(moment: Moment) -> Directions:
    """Return a moment as it is kept: the rest is that of the rounded directions."""
    directions = rounded(np.ascontiguousarray(moment.directions.T, np.float32))
    rest = moment.diagonal - np.square(directions, dtype=np.float64).sum(axis=0)
    return Directions(directions, np.maximum(rest, 0).astype(np.float32), float(moment.diagonal.mean()))


def _record(
    workspace: Workspace,
    session: Session,
    manifest: tables.Manifest,
    base: tables.BaseModel,
    texts: _Texts,
    tokens: int,
    rank: int,
    engine: str,
) -> tuple[tables.Calibration, bool]:
    """Return the calibration's record, and whether it is new."""
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
        prompts=texts.label,
        prompts_digest=texts.digest,
        tokens=tokens,
        rank=rank,
        engine=engine,
        created_at=now,
        created_by=workspace.actor,
    )
    session.add(row)
    session.flush()
    events.record(
        session,
        action="base.calibrated",
        kind="base",
        subject=base.digest,
        detail={"calibration": row.digest, "prompts": row.prompts, "tokens": tokens, "rank": rank},
        actor=workspace.actor,
        at=now,
    )
    return row, True


def _report(row: tables.Calibration, *, created: bool, seconds: float) -> CalibrationReport:
    return CalibrationReport(
        base=row.base.name,
        digest=row.digest,
        prompts=row.prompts,
        tokens=row.tokens,
        rank=row.rank,
        bytes=_file(row).size,
        engine=row.engine,
        created=created,
        seconds=round(seconds, 3),
    )
