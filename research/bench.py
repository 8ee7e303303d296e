"""Measure an adapter in every form that it could be shipped as, on this machine, and log the results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.registry import tables
from fusery.registry.adapters.trained_through import format_in_words
from fusery.registry.comparison.measured import put_own
from fusery.registry.comparison.reports import ACTION, BenchReport, FormCost, Held, Kind, Machine
from fusery.registry.database import events
from fusery.registry.engine.recipe import KEEP, PRECISIONS, Precision
from fusery.registry.engine.verdict import in_words
from fusery.registry.errors import (
    BadInputError,
    DatabaseReadOnlyError,
    FusionUnsupportedError,
    MissingExtraError,
    ModelUnusableError,
)
from fusery.registry.fusion.fuse import FuseRequest, fuse_to_read
from fusery.registry.fusion.views import weights_bytes
from fusery.registry.record import parts_of
from fusery.registry.records.bases import base_folder
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.renderings import fetch_form
from fusery.registry.records.withdrawals import refuse_yanked
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.progress import SILENT, Reporter

from .reports import COSTS, benched

MINUTES = 30  # after which one measurement is given up


@dataclass(slots=True)
class BenchForm:
    """A form of an adapter to measure, and the measurements, one a round."""

    kind: Kind
    label: str
    model: Path
    bytes: int
    folders: tuple[Path, ...] = ()
    precision: str | None = None
    fidelity: Held | None = None
    rounds: list[Mapping[str, float]] = field(default_factory=list)
    error: str | None = None

    def cost(self) -> FormCost:
        """Return medians over the rounds."""
        values: Mapping[str, Any] = {
            **{name: getattr(self, name) for name in parts_of(FormCost) if hasattr(self, name)},
            **{name: statistics.median(one[name] for one in self.rounds) if self.rounds else None for name in COSTS},
        }  # fmt: skip
        return FormCost(adapters=len(self.folders), **values)


def bench(
    workspace: Workspace,
    reference: str,
    *,
    precisions: Sequence[Precision] = (),
    resident: int = 8,
    prompt_tokens: int = 64,
    tokens: int = 32,
    runs: int = 3,
    record: bool = True,
    reporter: Reporter = SILENT,
) -> BenchReport:
    """Measure size, load time, speed and peak memory of each form of an adapter: medians of rounds, each in a process of its own."""
    sizes = 0 <= resident <= 1000 and 1 <= prompt_tokens <= 100_000 and 2 <= tokens <= 10_000
    if not sizes or not 1 <= runs <= 100:
        message = "these numbers measure nothing: a prompt and a run are needed, and two tokens or more"
        raise BadInputError(message, hint="fusery eval bench REF --tokens 32 --runs 3")
    if find_spec("mlx_lm") is None:
        raise MissingExtraError("measuring models", "mlx")
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        assert adapter.manifest.files is not None  # loaded, for use after the session
        base_name, size = adapter.base.name, weights_bytes(adapter.base.manifest)
        quantized, served = adapter.base.quantization is not None, _served(session, adapter)
    wanted = tuple(precisions) or (PRECISIONS if quantized else (KEEP,))
    with _forms(workspace, adapter, base_name, size, wanted, resident, reporter.say) as forms:
        _measure(forms, runs, prompt_tokens, tokens, reporter)
    costs = tuple(form.cost() for form in forms)
    choice, reasons = advise(costs, adapters=served)
    with workspace.database.read() as session:
        now = workspace.database.utcnow(session)
    report = BenchReport(
        adapter=adapter.name,
        base=base_name,
        machine=machine(),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        runs=runs,
        rows=costs,
        choice=choice,
        reasons=reasons,
        at=now,
    )
    return _record(workspace, adapter, report, reporter) if record else report


def machine() -> Machine:
    """Return what the numbers depend on."""
    return Machine(
        system=platform.system(),
        processor=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
    )


def _served(session: Session, adapter: tables.AdapterRow) -> int:
    held = (
        select(tables.AliasRow.adapter_id)
        .join(tables.AdapterRow, tables.AdapterRow.id == tables.AliasRow.adapter_id)
        .where(tables.AdapterRow.base_id == adapter.base_id)
        .distinct()
    )
    return len({adapter.id, *session.scalars(held)})


@contextmanager
def _forms(
    workspace: Workspace,
    adapter: tables.AdapterRow,
    base: str,
    size: int,
    precisions: Sequence[Precision],
    resident: int,
    say: Callable[[str], None],
) -> Iterator[list[BenchForm]]:
    with ExitStack() as held:
        folder = held.enter_context(base_folder(workspace, base))
        scratch = held.enter_context(workspace.cache.scratch())
        files = fetch_form(workspace, adapter, "mlx", scratch)
        own = files["adapters.safetensors"].parent
        bytes_of_it = files["adapters.safetensors"].stat().st_size
        bench_forms = [BenchForm("base", "base", folder, size)]
        if form := format_in_words(adapter.method, adapter.training):
            say(f"base + adapter is left out: {adapter.name} was trained to be fused into {form}")
        else:
            bench_forms.append(BenchForm("adapter", "base + adapter", folder, size + bytes_of_it, (own,)))
            if resident > 1:
                label, held_bytes = f"base + {resident} adapters", size + resident * bytes_of_it
                bench_forms.append(BenchForm("resident", label, folder, held_bytes, (own,) * resident))
        for precision in precisions:
            request = FuseRequest(precision=precision, accept_loss=True, probe=0)
            try:
                fused = held.enter_context(
                    fuse_to_read(workspace, adapter.name, request, reporter=Reporter(say))
                )
            except FusionUnsupportedError as error:
                say(f"{precision} is left out: {error.message}")
                continue
            kept = Held(verdict=fused.fidelity.verdict, retained=fused.fidelity.retained)
            label, size = f"fused, {fused.format}", fused.weights_bytes
            bench_forms.append(BenchForm("fused", label, fused.path, size, (), fused.precision, kept))
        yield bench_forms


def _measure(
    forms: Sequence[BenchForm], runs: int, prompt_tokens: int, tokens: int, reporter: Reporter
) -> None:
    for turn in range(runs):
        # In every other round backwards, so that none is always the one after a large one.
        for done, form in enumerate(forms if turn % 2 == 0 else reversed(forms)):
            reporter.progress(turn * len(forms) + done, runs * len(forms))
            if form.error is None:
                reporter.say(f"measuring {form.label}")
                measured = _run(form, prompt_tokens, tokens)
                if isinstance(measured, str):
                    form.error = measured
                else:
                    form.rounds.append(measured)
    if forms[0].error is not None:
        raise ModelUnusableError(f"the base cannot be run: {forms[0].error}")


def _run(form: BenchForm, prompt_tokens: int, tokens: int) -> Mapping[str, float] | str:
    asked = {
        "model": str(form.model),
        "adapters": [str(folder) for folder in form.folders],
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"{__package__}.bench_worker"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * MINUTES,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {MINUTES} minutes"
    try:
        measured: Mapping[str, float] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        return f"the process ended with {done.returncode}: {last}"
    return str(measured["error"]) if "error" in measured else measured


def _record(
    workspace: Workspace, adapter: tables.AdapterRow, report: BenchReport, reporter: Reporter
) -> BenchReport:
    kept = report.to_dict()
    del kept["at"]
    try:
        with workspace.database.write() as session:
            report = replace(report, at=workspace.database.utcnow(session))
            events.record(session, ACTION, "adapter", adapter.digest, kept, at=report.at)
            put_own(workspace, session, session.get_one(tables.AdapterRow, adapter.id), benched(report))
    except DatabaseReadOnlyError:
        reporter.say("not put on record: this registry may only be read here")
    return report


NOTICEABLE = 0.05  # differences of speed or memory below it do not decide


def advise(rows: Sequence[FormCost], *, adapters: int) -> tuple[str | None, tuple[str, ...]]:
    """Return the label of the form to ship, None without measurements, and the reasons: the smallest of the fastest that PASS."""
    base = next((row.peak_bytes for row in rows if row.kind == "base" and row.peak_bytes), None)

    def memory(row: FormCost) -> float:
        peak = row.peak_bytes or 0.0
        if row.kind == "fused":
            return peak * adapters
        return peak if base is None else base + adapters * max(0, peak - base)

    def speed(row: FormCost) -> float:
        return row.tokens_per_second or 0.0

    kept, reasons = [], []
    for row in rows:
        if row.kind not in ("adapter", "fused") or row.error is not None:
            continue
        if (held := row.fidelity) is not None and held.verdict != "PASS":
            reasons.append(f"{row.label} is out: {in_words(held.verdict, held.retained, None)}.")
        else:
            kept.append(row)
    if not kept:
        return None, (*reasons, "Nothing that holds what the adapter learned could be measured.")
    fastest = max(map(speed, kept))
    chosen = min((row for row in kept if speed(row) >= (1 - NOTICEABLE) * fastest), key=memory)
    for_all = f" for {adapters} adapters" if adapters > 1 else ""
    for row in kept:
        slower, more = 1 - speed(row) / speed(chosen), memory(row) / memory(chosen) - 1
        if slower > NOTICEABLE:
            reasons.append(f"{row.label} writes {slower:.0%} fewer tokens a second.")
        elif row is not chosen:
            reasons.append(f"{row.label} is as fast, and takes {more:.0%} more memory{for_all}.")
    if chosen.fidelity is None:
        reasons.append("The adapter on its base is exact, and every further adapter costs its own size only.")
    else:
        share = "all" if chosen.fidelity.retained is None else f"{chosen.fidelity.retained:.1%}"
        reasons.append(f"{chosen.label} holds {share} of the adapter's update and needs nothing but mlx-lm.")
    return chosen.label, tuple(reasons)
