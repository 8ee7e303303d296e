"""Compare the answers of two models, of base, base + adapter and fused model, to the same prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusery.registry import tables
from fusery.registry.adapters import WEIGHTS
from fusery.registry.adapters.render import render
from fusery.registry.adapters.tokenizer_files import own_tokenizer, with_tokenizer
from fusery.registry.adapters.trained_through import format_in_words, require_plain
from fusery.registry.comparison.harness_results import MetricValue
from fusery.registry.comparison.measured import record_own
from fusery.registry.comparison.reports import Origin, ProbedModel, ProbePrompts, ProbeReport
from fusery.registry.engine.architectures import TENSOR_SCALED
from fusery.registry.engine.recipe import WRITTEN_AS, RequestedPrecision
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import fuse
from fusery.registry.fusion.fuse_inputs import gather
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.names import an
from fusery.registry.records.bases import base_folder, lay_out, recorded_architecture
from fusery.registry.records.fused_rows import label_record
from fusery.registry.records.references import resolve_any
from fusery.registry.records.renderings import fetch_originals, require_factors_alone
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.digest import Digest
from fusery.storage.manifest import Manifest
from fusery.storage.progress import SILENT, Reporter

from .models import ModelSource, load_tokenizer, measure
from .prompts import LIMIT, Prompt, built_in, held_out, read_prompts, tokenise
from .reports import probed, report

BASE = "base"  # what `against` is to compare an adapter or a fused model with its own base


@dataclass(frozen=True, slots=True)
class ProbeSubject:
    """One of the two models, as the database knows it."""

    side: ProbedModel
    base: Digest
    task_of: int | None = None
    fused: Path | None = None
    owner: int | None = None
    aware: bool = False
    precision: RequestedPrecision = "auto"  # of its fused model, if `aware`: a format that mlx-lm reads


def probe(
    workspace: Workspace, reference: str, *, record: bool = True, reporter: Reporter = SILENT, **asked: Any
) -> ProbeReport:
    """Measure how far two models' answers are apart, as `measure_probe` does, and record it."""
    probe_report, values = measure_probe(workspace, reference, reporter=reporter, **asked)
    if record and values and probe_report.about_prompts.origin == "built-in":
        reporter.say("not recorded: the built-in prompts are not of the adapter's task; give --prompts FILE")
    elif record and values:
        record_own(workspace, values, reporter)
    return probe_report


def measure_probe(
    workspace: Workspace,
    reference: str,
    *,
    against: str | None = None,
    request: FuseRequest | None = None,
    prompts: Path | None = None,
    limit: int = LIMIT,
    base: str | None = None,
    fallback: bool = True,
    reporter: Reporter = SILENT,
) -> tuple[ProbeReport, list[tuple[int, list[MetricValue]]]]:
    """Return the report of `probe`, and the evaluations to record by the adapter's row id; without `fallback`, prompts are required."""
    if limit < 1:
        raise BadInputError("at least one prompt is needed", hint="--limit 32")
    asked = None if prompts is None else _first_of(prompts, limit, reporter)  # before anything is fused
    a = subject_of(workspace, reference, base)
    if a.aware and against is None:
        b = subject_of(workspace, a.base)  # what was trained is its fused model, which nothing can be lost of
    else:
        b = _other(workspace, a, reference, against, request, reporter)
    own = a.base
    if base is None and a.side.kind == "adapter" and b.side.kind == "fused" and a.task_of == b.task_of:
        a = replace(a, base=b.base)  # so that the fuse is measured, not another form of the base
    a = as_trained(workspace, a, reference, request, reporter)
    b = as_trained(workspace, b, against or BASE, None, reporter)
    about = ProbePrompts("file", prompts.name) if prompts is not None else ProbePrompts("built-in")
    task_of = a.task_of if a.task_of is not None else b.task_of
    if asked is None:
        asked, about = _own_prompts(workspace, a, task_of, limit, reporter, fallback)
    with workspace.database.read() as session:
        val_loss = None if task_of is None else session.get_one(tables.AdapterRow, task_of).val_loss
    about = replace(about, val_loss=val_loss)
    started = time.monotonic()
    with source_of(workspace, a) as first, source_of(workspace, b) as second:
        tokenizer = load_tokenizer(first.model)
        if a.base != b.base and tokenizer.get_vocab() != load_tokenizer(second.model).get_vocab():
            message = f"{a.side.name} and {b.side.name} have bases with different vocabularies"
            raise BadInputError(message, hint="compare models of one family")
        samples = tokenise(asked, tokenizer, strict=about.origin == "file")
        reporter.begin("tokens")
        of_base = len(samples) if a.side.kind == "adapter" and b.side.kind != "base" else 0
        measured = measure(first, second, samples, of_base=of_base, reporter=reporter)
    seconds = time.monotonic() - started
    probe_report = report(a.side, b.side, samples, measured, seconds, about=about, one_base=a.base == b.base)
    owners = (a.owner if a.base == own else None, b.owner)  # a value on another form is not the adapter's own
    return probe_report, probed(probe_report, asked, owners, one_base=a.base == b.base)


def as_trained(
    workspace: Workspace, one: ProbeSubject, reference: str, request: FuseRequest | None, reporter: Reporter
) -> ProbeSubject:
    """Return a model as it was trained: of an adapter that was trained through a quantiser, its fused one."""
    if not one.aware:
        return one
    reporter.say(f"{one.side.name} was trained through a quantiser: its fused model is asked")
    return _own_fused(workspace, one, reference, request, reporter)


def _first_of(path: Path, limit: int, reporter: Reporter) -> list[Prompt]:
    prompts = read_prompts(path, limit + 1)
    if len(prompts) > limit:
        reporter.say(f"{path.name} has more prompts: the first {limit} are measured; --limit N measures N")
    return prompts[:limit]


def _own_prompts(
    workspace: Workspace, a: ProbeSubject, task_of: int | None, limit: int, reporter: Reporter, fallback: bool
) -> tuple[list[Prompt], ProbePrompts]:
    """Return the default prompts: the run's held-out data, or else the built-in prompts."""
    with workspace.database.read() as session:
        data = held_out(session, task_of, unrecorded=True) if task_of is not None else None
    if data is not None and data.path is not None:
        reporter.say(
            f"asking {data.path}" + ("" if data.is_recorded else ", of which its run recorded no digest")
        )
        origin: Origin = "held-out" if data.is_recorded else "file"
        return _first_of(data.path, limit, reporter), ProbePrompts(origin, data.name)
    if not fallback:
        folders = "" if data is None else f" in {' or '.join(data.folders)}"
        message = f"held-out data of {a.side.name} not found: test.jsonl or valid.jsonl of its run{folders}"
        built_in_run = f"fusery eval probe {a.side.name} --against base  uses built-in prompts"
        raise BadInputError(message, hint=f"give --prompts FILE; {built_in_run}")
    if data is not None and data.is_recorded:
        gone = f"{data.name} of its run is not in {data.folders[0]} any more, or has changed"
        reporter.say(f"{gone}: asking the built-in prompts, which are not of its task")
    return built_in()[:limit], ProbePrompts("built-in")


def subject_of(workspace: Workspace, reference: str, base: str | None = None) -> ProbeSubject:
    """Return what a reference means as a model; an adapter is put on its base model, or on another form of it."""
    if base is not None:
        onto = gather(workspace, reference, base=base).base_digest  # refuses another model
        return replace(subject_of(workspace, reference), base=onto)
    with workspace.database.read() as session:
        row = resolve_any(session, reference)
        if isinstance(row, tables.FusedRow):
            return _fused_subject(workspace, row)
        if isinstance(row, tables.BaseModelRow):
            return ProbeSubject(ProbedModel("base", row.name, row.digest), Digest(row.digest))
        require_factors_alone(row, "and mlx-lm puts factors alone on a base")
        require_plain(row.name, row.training, "run by mlx-lm")
        side = ProbedModel("adapter", row.name, row.digest)
        aware = format_in_words(row.method, row.training) is not None
        scaled = (row.base.quantization or {}).get("mode") == TENSOR_SCALED
        precision: RequestedPrecision = "dequantize" if scaled else "auto"
        return ProbeSubject(
            side, Digest(row.base.digest), row.id, owner=row.id, aware=aware, precision=precision
        )


def _fused_subject(workspace: Workspace, fused: tables.FusedRow) -> ProbeSubject:
    path = workspace.cache.lookup(Digest(fused.key), Manifest.of(file.entry for file in fused.manifest.files))
    if path is None:
        hint = f"fusery fuse {fused.adapter.name} --as {WRITTEN_AS[fused.precision]}"
        raise BadInputError(f"fused model {fused.digest[:12]} is no longer in the cache", hint=hint)
    names = label_record(fused)
    side = ProbedModel("fused", names.combined, fused.digest, fused.precision, names.format)
    alone = not fused.extras and fused.recipe.get("scale") is None
    owner = fused.adapter_id if alone else None
    return ProbeSubject(side, Digest(fused.base.digest), fused.adapter_id, fused=path, owner=owner)


def _other(
    workspace: Workspace,
    a: ProbeSubject,
    reference: str,
    against: str | None,
    request: FuseRequest | None,
    reporter: Reporter,
) -> ProbeSubject:
    if against is None:
        if a.side.kind != "adapter":
            message = f"{reference} is {an(a.side.kind)} model: say what to compare it with"
            raise BadInputError(message, hint=f"fusery eval probe {reference} --against REF")
        return _own_fused(workspace, a, reference, request, reporter)
    if request is not None:
        raise BadInputError("--as is for an adapter against its own fused model", hint="leave --as out")
    if against != BASE:
        return subject_of(workspace, against)
    if a.side.kind == "base":
        raise BadInputError(f"{reference} is a base itself", hint="fusery eval probe ADAPTER --against base")
    return subject_of(workspace, a.base)


def _own_fused(
    workspace: Workspace, a: ProbeSubject, reference: str, request: FuseRequest | None, reporter: Reporter
) -> ProbeSubject:
    # Refusing a loss would leave nothing to measure it on.
    wanted = replace(request or FuseRequest(a.precision), accept_loss=True, probe=0)
    if wanted.scale is not None or wanted.extras:
        raise BadInputError("a probe takes the adapter as it is", hint="leave out -o scale= and --with")
    made = fuse(workspace, reference, wanted, reporter=reporter)
    side = ProbedModel("fused", a.side.name, made.digest, made.precision, made.format)
    return ProbeSubject(side, a.base, a.task_of, fused=made.path, owner=a.owner)


@contextmanager
def source_of(workspace: Workspace, subject: ProbeSubject) -> Iterator[ModelSource]:
    """Yield the folders of a model, for as long as they are needed."""
    if subject.fused is not None:
        with workspace.cache.using(subject.fused.name):  # so that it is not evicted while it is read
            yield ModelSource(subject.fused, name=f"the fused model of {subject.side.name}")
        return
    with base_folder(workspace, subject.base) as folder:
        if subject.side.kind != "adapter":
            yield ModelSource(folder, name=subject.side.name)
            return
        with workspace.database.read() as session:
            row = session.get_one(tables.AdapterRow, subject.owner)
            base = recorded_architecture(row.base)
            assert row.manifest.files is not None  # loaded, for use after the session
        own = fetch_originals(workspace, row, folder.parent / "adapter")
        adapter = render("mlx", own, base, folder.parent / "rendered-adapter")
        model = folder
        if own_tokenizer(adapter):  # links to the base's files, and the adapter's tokenizer
            paths = (path for path in folder.rglob("*") if not path.is_dir())
            files = {path.relative_to(folder).as_posix(): path for path in paths}
            lay_out(with_tokenizer(files, adapter), model := folder.with_name("with-tokenizer"))
        yield ModelSource(model, adapter[WEIGHTS].parent, subject.side.name)
