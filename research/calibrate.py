"""Calibrating: a base reads some text, and statistics of its linear layers' inputs are stored, to shape rounding by.

A calibration belongs to a base and serves all adapters on it.  It is a file in the store (`fusery.registry.engine.calibration`), recorded
with the digest of its manifest, so that whatever is fused with it can say which one it was.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusery.registry.engine.architectures import fingerprint
from fusery.registry.engine.calibration import Directions, rounded, write_calibration
from fusery.registry.records.bases import base_folder
from fusery.registry.records.calibrations import (
    CALIBRATION,
    CalibrationReport,
    Reading,
    calibration_report,
    choose_calibration,
    current_calibration,
    known_calibration,
    record_calibration,
)
from fusery.registry.records.deposit import Deposit
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter

from .prompts import Texts, tokenise

if TYPE_CHECKING:
    from fusery.registry.workspace.workspace import Workspace

    from .moments import Moment

LIMIT = 128  # how many prompts of a file are read if nobody says
FEW = 1_000  # tokens below which the directions say more of the texts than of the base
RANK = 32  # the number of directions stored per input


def calibrate(
    workspace: Workspace,
    base_reference: str,
    *,
    prompts: Path | None = None,
    reporter: Reporter = SILENT,
) -> CalibrationReport:
    """Run a base over prompts and store statistics of its linear layers' inputs; once for the same prompts.

    From then on a fuse takes it, whether it was made now or was there already.
    """
    texts, started = Texts.of(prompts, LIMIT), time.monotonic()
    reading = Reading(texts.label, texts.digest, RANK)
    with workspace.database.read() as session:
        found = resolve_base(session, base_reference)
        name, quantization = found.name, found.quantization
    if not isinstance(quantization, dict) or quantization.get("mode", "affine") != "affine":
        reporter.say(f"{name} is not quantised in affine codes: no fuse on it takes a calibration")
    if (known := known_calibration(workspace, found, reading)) is not None:
        _take(workspace, found.digest, known, reporter)
        return known
    engine = fingerprint()
    with workspace.scratch() as scratch:
        file = scratch / CALIBRATION
        digest, tokens = _write(workspace, base_reference, texts, file, reporter)
        report = store(workspace, file, digest, reading, tokens, engine, started, reporter)
    _take(workspace, digest, report, reporter)
    return report


def store(
    workspace: Workspace,
    file: Path,
    base_digest: str,
    reading: Reading,
    tokens: int,
    engine: str,
    started: float,
    reporter: Reporter,
) -> CalibrationReport:
    """Put a calibration's file into the store and record it."""
    reporter.say("storing")
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    deposit.put({CALIBRATION: file})
    with deposit.recording() as session:
        base = resolve_base(session, base_digest)
        row, created = record_calibration(
            workspace, session, deposit.commit(session), base, reading, tokens=tokens, engine=engine
        )
        return calibration_report(row, created=created, seconds=time.monotonic() - started)


def _take(workspace: Workspace, base: str, report: CalibrationReport, reporter: Reporter) -> None:
    """Let a fuse take a calibration that was there already, if it takes another one."""
    with workspace.database.read() as session:
        current = current_calibration(session, resolve_base(session, base))
    if current is None or current.digest == report.digest:
        return
    with workspace.database.write() as session:
        made = {row.digest: row for row in resolve_base(session, base).calibrations}
        before = choose_calibration(session, made[report.digest])
    if before is not None:
        reporter.say(f"a fuse takes it from now on, and no longer {before.digest[:12]} on {before.prompts}")


def _write(
    workspace: Workspace,
    reference: str,
    texts: Texts,
    file: Path,
    reporter: Reporter,
) -> tuple[Digest, int]:
    """Run the base and write what was found; return the base's digest, and how many tokens it read."""
    from .models import LoadedModel, load_tokenizer
    from .moments import PASSES, moments

    with workspace.database.read() as session:
        digest = Digest(resolve_base(session, reference).digest)
    with base_folder(workspace, digest) as folder:
        samples = tokenise(texts.prompts, load_tokenizer(folder), strict=texts.strict)
        tokens = sum(len(sample.tokens) for sample in samples)
        reporter.say(f"the base reads {tokens:,} tokens, {PASSES} times")
        if tokens < FEW:
            reporter.say(
                f"that is little: from some {FEW:,} tokens on, rounding is shaped by the base and not by the texts"
            )
        found = moments(LoadedModel.load(folder, numpy=True), samples, RANK, progress=reporter.progress)
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
