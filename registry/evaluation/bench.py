"""Measuring an adapter in every form it could be shipped as, on this machine; the log keeps what was found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters.trained_through import format_in_words
from ..charts.files import picture_kind
from ..database import events
from ..documents import write_picture
from ..engine.precisions import KEEP, PRECISIONS, Precision
from ..errors import BadInputError, DatabaseReadOnlyError, FusionUnsupportedError, MissingExtraError
from ..fusion.fuse import FuseRequest, fuse_to_read
from ..fusion.views import weights_bytes
from ..record import Record
from ..records.base_files import base_folder
from ..records.fused import Fused
from ..records.references import resolve_adapter
from ..records.renderings import fetch_form
from ..records.withdrawals import refuse_yanked
from .advice import advise
from .bench_report import BenchReport, Machine
from .own import benched, put_own
from .subjects import FormCost, Held, Row, Subject

if TYPE_CHECKING:
    from ..workspace import Workspace

_Made = TypeVar("_Made", bound=Record)
ACTION = "adapter.benched"
"""What the log calls a measurement."""

Say = Callable[[str], None]
MINUTES = 30
"""After which one measurement is given up."""


def bench(
    workspace: Workspace,
    reference: str,
    *,
    precisions: Sequence[Precision] = (),
    resident: int = 8,
    prompt_tokens: int = 64,
    tokens: int = 32,
    runs: int = 3,
    plot: Path | None = None,
    force: bool = False,
    record: bool = True,
    reporter: Reporter = SILENT,
) -> BenchReport:
    """Measure size, load time, time to the first token, tokens a second and peak memory of each form of an adapter.

    Every measurement is a process of its own.  All forms take turns in each round, so that a machine that becomes busy does
    so for all of them; the medians count.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        precisions: of the fused models; empty for each that the base allows.
        resident: how many adapters are in memory for the row that has several; 0 leaves it out.
        prompt_tokens: length of the prompt.
        tokens: how many are written.
        runs: rounds.
        plot: draw the bars to a .png or .svg file.
        force: replace the picture.
        record: keep the report in the log, and put what was measured of the adapter on record as evaluations, where the
            registry can be written.
        reporter: hears what is going on, and the measurements done and the total.

    Raises:
        BadInputError: a number makes no sense, or the adapter is yanked.
        UnknownReferenceError: there is no such adapter.
        MissingExtraError: mlx-lm, or for a PNG the extra `plot`, is not installed.
        ModelUnusableError: not even the base can be run.
    """
    _check(resident, prompt_tokens, tokens, runs)
    kind = picture_kind(plot) if plot is not None else None
    if find_spec("mlx_lm") is None:
        raise MissingExtraError("measuring models", "mlx")
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        assert adapter.manifest.files is not None  # loaded, for use after the session
        base_name, size = adapter.base.name, weights_bytes(adapter.base.manifest)
        quantized, served = adapter.base.quantization is not None, _served(session, adapter)
    wanted = tuple(precisions) or (PRECISIONS if quantized else (KEEP,))
    with _subjects(workspace, adapter, base_name, size, wanted, resident, reporter.say) as subjects:
        rows = _measured(subjects, runs, prompt_tokens, tokens, reporter)
    costs = tuple(row.cost() for row in rows)
    advice = advise(costs, adapters=served)
    with workspace.database.read() as session:
        now = workspace.database.utcnow(session)
    found = BenchReport(
        adapter=adapter.name,
        base=base_name,
        machine=machine(),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        runs=runs,
        rows=costs,
        choice=advice.choice,
        reasons=advice.reasons,
        at=now,
    )
    if record:
        found = _record(workspace, adapter, found, reporter)
    if plot is None or kind is None:
        return found
    from ..charts.bars import draw

    write_picture(plot, draw(found, kind), force=force)
    return replace(found, plot=plot)


def recorded(workspace: Workspace, reference: str) -> BenchReport | None:
    """Return what was measured last of an adapter, on whatever machine; None if nothing was."""
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        found = events.history(session, kind="adapter", subject=adapter.digest, action=ACTION, limit=1)
    return _read(json.loads(found[0].detail), found[0].at) if found else None


def _read(detail: Mapping[str, Any], at: datetime) -> BenchReport:
    """Return the report that the log kept, perhaps of another version: what it has not is None, what is new is left out."""
    rows = (
        _made(FormCost, {**row, "fidelity": _made(Held, row["fidelity"]) if row.get("fidelity") else None})
        for row in detail["rows"]
    )
    made = {
        "machine": _made(Machine, detail["machine"]),
        "rows": tuple(rows),
        "reasons": tuple(detail.get("reasons", ())),
        "at": at,
    }
    return _made(BenchReport, {**detail, **made})


def _made(kind: type[_Made], said: Mapping[str, Any]) -> _Made:
    return kind(**{each.name: said.get(each.name) for each in fields(kind)})  # type: ignore[arg-type]


def machine() -> Machine:
    """Return what the numbers depend on."""
    return Machine(
        system=platform.system(),
        processor=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
    )


def _served(session: Session, adapter: tables.Adapter) -> int:
    """Return how many adapters of the same base are in use, this one with them: those that an alias holds."""
    held = (
        select(tables.Alias.adapter_id)
        .join(tables.Adapter, tables.Adapter.id == tables.Alias.adapter_id)
        .where(tables.Adapter.base_id == adapter.base_id)
        .distinct()
    )
    return len({adapter.id, *session.scalars(held)})


def _check(resident: int, prompt_tokens: int, tokens: int, runs: int) -> None:
    if not (
        0 <= resident <= 1000 and 1 <= prompt_tokens <= 100_000 and 2 <= tokens <= 10_000 and 1 <= runs <= 100
    ):
        raise BadInputError(
            "these numbers measure nothing: a prompt and a run are needed, and two tokens or more",
            hint="fusery bench REF --tokens 32 --runs 3",
        )


@contextmanager
def _subjects(
    workspace: Workspace,
    adapter: tables.Adapter,
    base: str,
    size: int,
    precisions: Sequence[Precision],
    resident: int,
    say: Say,
) -> Iterator[list[Subject]]:
    """Yield what is measured, for as long as its files are needed."""
    with ExitStack() as held:
        folder = held.enter_context(base_folder(workspace, base))
        scratch = held.enter_context(workspace.cache.scratch())
        files = fetch_form(workspace, adapter, "mlx", scratch)
        own = files["adapters.safetensors"].parent
        bytes_of_it = files["adapters.safetensors"].stat().st_size
        found = [Subject("base", "base", folder, size)]
        form = format_in_words(adapter.method, adapter.training)
        if form is not None:
            say(f"base + adapter is left out: {adapter.name} was trained to be fused into {form}")
        else:
            found.append(Subject("adapter", "base + adapter", folder, size + bytes_of_it, (own,)))
        if form is None and resident > 1:
            label = f"base + {resident} adapters"
            found.append(Subject("resident", label, folder, size + resident * bytes_of_it, (own,) * resident))
        for precision in precisions:
            request = FuseRequest(precision=precision, accept_loss=True)
            try:
                fused = held.enter_context(
                    fuse_to_read(workspace, adapter.name, request, reporter=Reporter(say))
                )
            except FusionUnsupportedError as error:
                say(f"{precision} is left out: {error.message}")
                continue
            found.append(_fused(fused))
        yield found


def _fused(fused: Fused) -> Subject:
    fidelity = Held(verdict=fused.fidelity.verdict, retained=fused.fidelity.retained)
    size, label = fused.weights_bytes, f"fused, {fused.format}"
    return Subject("fused", label, fused.path, size, (), fused.precision, fidelity)


def _measured(
    subjects: Sequence[Subject],
    runs: int,
    prompt_tokens: int,
    tokens: int,
    reporter: Reporter,
) -> list[Row]:
    rows = [Row(subject) for subject in subjects]
    for turn in range(runs):
        # In every other round backwards, so that none is always the one after a large one.
        for done, row in enumerate(rows if turn % 2 == 0 else reversed(rows)):
            reporter.progress(turn * len(rows) + done, runs * len(rows))
            if row.error is None:
                reporter.say(f"measuring {row.subject.label}")
                found = _run(row.subject, prompt_tokens, tokens)
                row.error = found.pop("error", None)
                if row.error is None:
                    row.rounds.append(found)
    if rows[0].error is not None:
        from ..errors import ModelUnusableError

        raise ModelUnusableError(f"the base cannot be run: {rows[0].error}")
    return rows


def _run(subject: Subject, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    asked = {
        "model": str(subject.model),
        "adapters": [str(folder) for folder in subject.adapters],
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"{__package__}.worker"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * MINUTES,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than {MINUTES} minutes"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": f"the process ended with {done.returncode}: {_last_line(done.stderr)}"}
    return found


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def _record(
    workspace: Workspace, adapter: tables.Adapter, report: BenchReport, reporter: Reporter
) -> BenchReport:
    """Write a report into the log, but for when that was, which the log says itself, and for the picture."""
    kept = report.to_dict()
    del kept["at"], kept["plot"]
    try:
        with workspace.database.write() as session:
            report = replace(report, at=workspace.database.utcnow(session))
            events.record(
                session,
                action=ACTION,
                kind="adapter",
                subject=adapter.digest,
                detail=kept,
                actor=workspace.actor,
                at=report.at,
            )
            put_own(workspace, session, session.get_one(tables.Adapter, adapter.id), benched(report))
    except DatabaseReadOnlyError:
        reporter.say("not put on record: this registry may only be read here")
    return report


__all__ = ["BenchReport", "bench", "recorded"]
