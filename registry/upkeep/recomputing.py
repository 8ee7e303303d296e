"""Recompute recorded facts from the bytes, which shows what was never true: contents, facts, formats and keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import joinedload, selectinload

from fusery.storage.errors import FuseryError
from fusery.storage.plugins import PluginError

from .. import tables
from ..adapters import Finding
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..adapters.render import other_forms
from ..admission.rules import SeverityPolicy, examine, unreadable
from ..admission.submission import Submission
from ..engine.architectures import taken_by_name
from ..fusion.records import in_words
from ..fusion.views import foreign_key, foreign_record, recipe_key
from ..models.identity import identify_base
from ..records.amendments import state_of, undone
from ..records.bases import blob_generations
from ..records.derived import LEARNED, adapter_columns, base_columns, describe_base, differing
from ..records.references import load_adapters
from ..records.renderings import fetch_originals
from ..records.withdrawals import false_sources
from ..registration.context import RegistrationContext, candidate_for, context_on, policy_of
from ..workspace.workspace import Workspace
from .checks import AuditableItem
from .report import Report, in_order

_COLUMNS = ("method", "rank", "scale", "layers", "target_modules", "trainable_parameters", "training")
Contexts = dict[int, RegistrationContext]  # what admission knows of base models by row, read when needed


def check_again(
    workspace: Workspace, item: AuditableItem, report: Report, contexts: Contexts, folder: Path | None
) -> None:
    """Recompute the facts of a record whose bytes are whole, and report differences; an adapter's files are in a folder."""
    with in_order(report, item.name):
        try:
            if item.kind == "base":
                base = _base(workspace, item, report.notes)
            elif item.kind == "adapter" and folder is not None:
                base = _adapter(workspace, item, contexts, folder)
            else:
                base = _fused(workspace, item, report.notes) if item.kind == "fused" else iter(())
            for code, message in base:
                report.add(code, item.name, message)
        except PluginError:
            raise  # it concerns all items
        except FuseryError as error:
            report.notes.append(f"cannot recompute {item.name}: {error.message}")


# Code and message of each recorded fact that contradicts the bytes.
_Contradictions = Iterator[tuple[str, str]]


def _base(workspace: Workspace, item: AuditableItem, notes: list[str]) -> _Contradictions:
    if item.folder is not None:
        paths = {entry.path: item.folder / entry.path for entry in item.manifest}
    else:
        generations = blob_generations(workspace, [entry.sha256 for entry in item.manifest])
        places = (
            (entry.path, workspace.store.local_path(entry.sha256, generation=generations[entry.sha256]))
            for entry in item.manifest
        )
        paths = {name: path for name, path in places if path is not None}
    if len(paths) < len(item.manifest):
        notes.append(f"content of {item.name} not recomputed: its files are not on this machine")
        return
    architecture = describe_base(paths)
    identity = identify_base(paths, architecture.config)
    if identity.manifest.digest != item.digest:
        return  # the files were found to be others
    derived = base_columns(architecture, identity)
    with workspace.database.read() as session:
        row = session.get_one(tables.BaseModelRow, item.number)
        stated = {name: getattr(row, name) for name in derived}
    if stated["content"] not in (None, derived["content"]):
        recorded, computed = stated["content"][:12], derived["content"][:12]
        yield "content_differs", f"wrong content digest: {recorded} (computed: {computed})"
    wrong = [name for name in differing(stated, derived) if name != "content"]
    by_name = taken_by_name(architecture.config, paths, written_by_mlx=architecture.written_by_mlx)
    if not by_name and set(wrong) & LEARNED:
        notes.append(f"content of {item.name} not recomputed: it depends on mlx-lm")
        wrong = [name for name in wrong if name not in LEARNED]
    yield from _differing(wrong)


def _adapter(workspace: Workspace, item: AuditableItem, contexts: Contexts, arrived: Path) -> _Contradictions:
    adapter = tables.AdapterRow
    query = (
        load_adapters()
        .where(adapter.id == item.number)
        .options(
            joinedload(adapter.manifest).selectinload(tables.ManifestRow.files),
            selectinload(adapter.renderings),
            selectinload(adapter.sources),
        )
    )
    with workspace.database.read() as session:
        row = session.scalars(query).unique().one()
        if row.base_id not in contexts:
            contexts[row.base_id] = context_on(workspace, session, row.base)
        if false_sources(row):
            yield "sources_differ", "the recorded sources do not match the recipe"
        declared = undone(state_of(row), row.amendments)
        submission = Submission(
            base=row.base.name,
            task=row.task.name,
            version=row.version,
            **{name: declared[name] for name in ("date", "val_loss", "dataset")},
        )
    context = contexts[row.base_id]
    base = context.facts.architecture
    files = {entry.path: arrived / entry.path for entry in item.manifest}
    if missing := [path for path, place in files.items() if not place.exists()]:  # read with another record
        fetch_originals(workspace, row, arrived, lambda path: path in missing)
    try:
        folder = read_adapter_folder(arrived, base=base)
    except FuseryError as error:
        yield from _refused([unreadable(error)])
        return
    recorded_codes = {finding.code for finding in row.findings}
    yield from _refused(_unfit(workspace, folder, submission, context, recorded_codes))
    if folder.problems:
        return  # what cannot be read says nothing
    stated = {column: getattr(row, column) for column in _COLUMNS}
    yield from _differing(differing(stated, adapter_columns(folder, item.digest)))
    forms = {form.form: form.digest for form in row.renderings}
    rendered = arrived / ".rendered"
    rendered.mkdir()
    others = other_forms(files, base, forms, rendered)
    made: dict[str, str] = {form: manifest.digest for form, manifest in others}
    for form, digest in sorted(forms.items()):
        if made.get(form) != digest:
            yield "form_differs", f"wrong digest of the format {form} (recorded: {digest[:12]})"


def _unfit(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    context: RegistrationContext,
    recorded_codes: Collection[str],
) -> list[Finding]:
    """Return the errors for which admission would refuse an adapter today, without those on record (`known`) and allowed ones."""
    # On which base it is was decided when it was registered; and it is its own neighbour.
    declared = (folder.config.model, folder.metadata.base_model)
    submission = replace(submission, base_all_names=tuple(name for name in declared if name))
    candidate = candidate_for(workspace, folder, submission, context=context)
    candidate, ours, usual = replace(candidate, neighbours=lambda: ()), policy_of(workspace), SeverityPolicy()
    findings = examine(candidate, usual)
    here = findings if ours == usual else examine(candidate, ours)
    refused = {one.code for one in here if one.severity == "error"}.difference(recorded_codes)
    return [one for one in findings if one.severity == "error" and one.code in refused]


def _refused(findings: Sequence[Finding]) -> _Contradictions:
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        yield "adapter_unfit", f"admission would refuse it: {findings[0].code}: {findings[0].message}{more}"


def _differing(wrong: Sequence[str]) -> _Contradictions:
    if wrong:
        yield "facts_differ", f"recorded facts contradict the bytes: {', '.join(wrong)}"


def _fused(workspace: Workspace, item: AuditableItem, notes: list[str]) -> _Contradictions:
    with workspace.database.read() as session:
        row = session.get_one(tables.FusedRow, item.number)
        try:
            key: Any = recipe_key(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            key = None
        if key is not None and row.origin is not None:
            key = foreign_key(row.origin, key)
        if key != row.key:
            yield "key_differs", "the recorded key does not match the base model, adapters and recipe"
        elif (foreign := foreign_record(row)) is not None:
            notes.append(f"{item.name} is {in_words(foreign)}")
        total = sum(entry.size for entry in item.manifest)
        if row.bytes != total:
            yield "facts_differ", f"wrong size: {row.bytes} bytes (its files: {total})"
