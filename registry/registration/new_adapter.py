"""Record a new admitted adapter, from a folder or another registry; the same bytes are rarely a new version."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.copying import Staged
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest

from .. import tables
from ..adapters import WEIGHTS, Finding, verdict
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..adapters.render import Form, other_forms
from ..admission.code import AdmissionError
from ..admission.rules import examine, unreadable
from ..admission.submission import Submission
from ..errors import AlreadyExistsError, BadInputError
from ..names import AdapterName, compact_date, parse_date, parse_slug
from ..records.adapter import own
from ..records.amendments import TAG, State, dataset_row, is_amendable, state_of, undone
from ..records.derived import adapter_columns, alpha_of, differing
from ..records.references import load_adapters, resolve_adapter
from ..records.renderings import record_rendering
from ..records.withdrawals import inherited_dataset, of_adapters, recipe_in, recorded_sources
from ..remote.documents import AdapterDocument
from .context import RegistrationContext, candidate_for, load_context, policy_of
from .recorded import (
    AUDIT_ORIGIN,
    adapter_with_weights,
    first_state,
    record_run,
    record_training,
    submission_of,
    training_findings,
)
from .training_run import Training

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Examined:
    """An admitted adapter of a folder with a run, or of another registry's document, whose `corrected` fields contradict the files."""

    folder: AdapterFolder
    copies: Mapping[str, Staged | Path]
    manifest: Manifest
    forms: Sequence[tuple[Form, Manifest]]
    submission: Submission
    training: Training | None
    document: AdapterDocument | None
    context: RegistrationContext
    name: AdapterName
    findings: Sequence[Finding]
    corrected: Sequence[str] = ()
    sketch: str = ""


def examine_recorded(
    workspace: Workspace,
    document: AdapterDocument,
    paths: Mapping[str, Path],
    scratch: Path,
    *,
    base: RegistrationContext,
    parent: str | None,
) -> Examined:
    """Run admission on an adapter of another registry, from its verified files in one folder; `scratch` is empty."""
    name = min(paths, key=lambda path: path.count("/"))
    try:
        folder = read_adapter_folder(paths[name].parents[name.count("/")], base=base.facts.architecture)
    except FuseryError as error:
        raise AdmissionError.of(document.name, [unreadable(error)], AUDIT_ORIGIN) from error
    if strange := sorted(set(paths) - set(folder.kept)):
        raise BadInputError(f"unexpected file of {document.name}: {strange[0]}", hint=AUDIT_ORIGIN)
    own = alpha_of(folder)
    alpha = None if document.alpha is None or document.alpha == own else document.alpha
    submission = submission_of(document, base=base.base.name, parent=parent, alpha=alpha, folder=folder)
    if parent is not None or submission.trained_on is not None:
        base = load_context(workspace, folder, submission)
    weights = next((file.sha256 for file in document.files if file.path == WEIGHTS), None)
    facts: Any = {"context": base, "weights": weights if folder.originals is None else None}
    training = training_findings(document, folder, submission)
    candidate = candidate_for(workspace, folder, submission, **facts, training=training)
    findings = examine(candidate, policy_of(workspace))
    if verdict(findings) == "fail":
        raise AdmissionError.of(document.name, findings, AUDIT_ORIGIN)
    wanted = {*(one.format for one in document.renderings), *(["mlx"] if folder.form == "peft" else [])}
    computed = {**adapter_columns(folder, document.digest), "alpha": own if alpha is None else alpha}
    forms = tuple(other_forms(folder.kept, candidate.base.architecture, wanted, scratch))
    called = AdapterName(document.task, document.version, parse_date(str(submission.date)))
    read, corrected = (folder, paths, document.manifest, forms), differing(dict(document), computed)
    return Examined(*read, submission, None, document, base, called, findings, corrected, candidate.sketch())


def task_row(session: Session, name: str) -> tables.TaskRow:
    """Return the row of a task, inserted if it is new."""
    task = session.scalar(select(tables.TaskRow).where(tables.TaskRow.name == name))
    if task is None:
        task = tables.TaskRow(name=name)
        session.add(task)
        session.flush()
    return task


def add_adapter(
    workspace: Workspace,
    session: Session,
    seen: Examined,
    name: AdapterName,
    stored: tables.ManifestRow,
    sources: Sequence[str] = (),
) -> tables.AdapterRow:
    """Record a new adapter in the caller's transaction, without a log entry; `sources` default to those that its recipe names."""
    folder, submission, document, base = seen.folder, seen.submission, seen.document, seen.context.base
    declared = _declared(seen) if document is None else first_state(document)
    dataset = declared["dataset"]
    dataset_id = None
    if dataset:
        revision, digest = declared["dataset_revision"] or "", declared["dataset_digest"] or ""
        row = dataset_row(session, dataset, revision=revision, digest=digest, examples=declared["examples"])
        dataset_id = row.id
    other = seen.context.trained_on
    iterations, parent = folder.config.iters, seen.context.parent
    if parent is None and seen.training is not None and seen.training.continued:
        parent = adapter_with_weights(session, seen.training.continued)
    if seen.training is not None:
        iterations = seen.training.iterations(folder)
    elif document is not None and document.training_run is not None:
        iterations = document.iterations
    adapter = tables.AdapterRow(
        **{
            **submission.columns(),
            **adapter_columns(folder, seen.manifest.digest),
            "version": name.version,
            "date": name.date,
            "alpha": submission.alpha if submission.alpha is not None else alpha_of(folder),
            "val_loss": declared["val_loss"],
            "examples": declared["examples"],
        },
        task_id=task_row(session, name.task).id,
        name=str(name),
        base_id=base.id,
        manifest_id=stored.id,
        total_parameters=base.parameters,
        iterations=iterations,
        dataset_id=dataset_id,
        parent_id=parent.id if parent is not None else None,
        trained_on=other.digest if other else None,
        trained_on_name=other.name if other else None,
        created_at=document.created_at if document is not None else workspace.database.utcnow(session),
        created_by=document.created_by if document is not None else workspace.actor,
        # Complete lists are not loaded again.
        tags=[
            tables.AdapterTagRow(key=parse_slug(key, "tag"), value=value)
            for key, value in submission.tags.items()
        ],
        findings=[_finding_row(name, finding) for finding in seen.findings],
        amendments=[],
        renderings=[],
        evaluations=[],
    )
    session.add(adapter)
    session.flush()
    if seen.sketch:
        session.add(tables.AdapterSketchRow(adapter_id=adapter.id, numbers=seen.sketch))
    for form, manifest in seen.forms:
        record_rendering(session, adapter, form, manifest, adapter.created_at)
    if document is not None:
        record_training(session, adapter, document)
    elif seen.training is not None and seen.training.run.has_history:
        record_run(session, adapter, seen.training)
    _add_sources(session, adapter, sources, document)
    session.flush()
    return adapter


def _finding_row(name: AdapterName, finding: Finding) -> tables.AdapterFindingRow:
    # Record the version: @latest names another adapter later.
    hint = finding.hint.replace(f"{name.task}@latest", f"{name.task}@{name.version}")
    return tables.AdapterFindingRow(**{**finding.to_dict(), "hint": hint})


def _declared(seen: Examined) -> State:
    """Return the amendable values of a folder, from what was declared, its metadata and its training run."""
    submission, metadata, training = seen.submission, seen.folder.metadata, seen.training
    assert training is not None
    data = training.data
    examples = submission.examples if submission.examples is not None else metadata.training_examples
    if examples is None and data is not None:
        examples = data.examples
    dataset = submission.dataset or metadata.dataset or seen.folder.config.data
    dataset = dataset or (data.name if data else None)
    val_loss = submission.val_loss if submission.val_loss is not None else training.val_loss(seen.folder)
    return {
        "val_loss": val_loss,
        "examples": examples,
        "dataset": dataset,
        "dataset_revision": data.fingerprint if data and data.name in (None, dataset) else None,
        "dataset_digest": data.digest if data else None,
    }


def _add_sources(
    session: Session, adapter: tables.AdapterRow, sources: Sequence[str], document: AdapterDocument | None
) -> None:
    recipe = recipe_in(adapter.training)
    named = [resolve_adapter(session, name) for name in sources]
    given: Iterable[Any] = named if document is None else document.sources
    names = recipe.sources if recipe is not None else ()
    wrong = named and tuple(source.digest for source in named) != names
    if wrong or any(source.digest not in names for source in given):
        raise BadInputError(f"the sources of {adapter.name} do not match its recipe")
    if recipe is None:
        return
    rows = [tables.AdapterSourceRow(position=at, source_id=source.id) for at, source in enumerate(named)]
    rows = rows or recorded_sources(session, recipe, adapter.base_id)
    for row in rows:
        row.adapter_id = adapter.id
        session.add(row)
    if adapter.dataset_id is None and document is None:
        adapter.dataset_id = inherited_dataset(session, recipe, [row.source_id for row in rows])


def existing_adapter(
    session: Session, task: tables.TaskRow, digest: str, submission: Submission, context: RegistrationContext
) -> tables.AdapterRow | None:
    """Return the adapter with these bytes under a task; None if they are to be registered."""
    adapter = tables.AdapterRow
    query = select(adapter.id).where(adapter.task_id == task.id, adapter.digest == digest)
    numbers = session.scalars(query).all()
    if not numbers:
        return None  # nearly always, and far cheaper asked than all that an adapter has
    rows = session.scalars(load_adapters().where(adapter.id.in_(numbers)).order_by(adapter.id.desc())).all()
    yanks = {number: own(withdrawals) for number, withdrawals in of_adapters(session, numbers).items()}
    withdrawn = {number: reason for number, reason in yanks.items() if reason is not None}
    rows = sorted(rows, key=lambda row: row.id in withdrawn)
    row_differences = [(row, _differences(row, submission, context)) for row in rows]
    for row, differs in row_differences:
        if not differs:
            return row
    row, differs = row_differences[0]
    fixed = [field for field in differs if not is_amendable(field)]
    if fixed and row.id in withdrawn:
        return None
    raise _refusal(row, differs, fixed, withdrawn.get(row.id))


def _refusal(
    row: tables.AdapterRow, differs: Mapping[str, tuple[Any, Any]], fixed: Sequence[str], yanked: str | None
) -> AlreadyExistsError:
    field, (was, declared_value) = next(iter(differs.items()))
    state = "" if yanked is None else f" and yanked ({yanked[:200]})"
    other = f"with {field} {str(was)[:100]} and not {declared_value}"
    if was is None:
        other = f"without {field} {declared_value}"
    message = f"this adapter is already registered as {row.name}{state}, {other[:300]}"
    if fixed:
        hint = f"give --task OTHER if it is one adapter for two uses; else fusery yank {row.name} --reason TEXT  withdraws that record, and the same again then makes a new version"
        return AlreadyExistsError(f"{message}; {fixed[0]} is never amended", hint=hint)
    options = [
        f"--tag {shlex.quote(f'{name.removeprefix(TAG)}={value}')}"
        if name.startswith(TAG)
        else f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, (_, value) in differs.items()
    ]
    again = "" if yanked is None else f", then fusery yank {row.name} --undo"
    hint = f"fusery edit {row.name} {' '.join(options)} --reason TEXT{again}"
    return AlreadyExistsError(f"{message}; registering changes no record", hint=hint)


def _differences(
    row: tables.AdapterRow, submission: Submission, context: RegistrationContext
) -> dict[str, tuple[Any, Any]]:
    """Return the declared values that were never on record, each with the recorded one."""
    base, parent, other = context.base, context.parent, context.trained_on
    columns = {name: value for name, value in submission.columns().items() if not is_amendable(name)}
    fixed: dict[str, tuple[Any, Any]] = {
        "base": (row.base.name, base.name if base.id != row.base_id else None),
        **{name: (getattr(row, name), value) for name, value in columns.items()},
        "parent": (row.parent.name if row.parent else None, parent.name if parent else None),
        "trained_on": (row.trained_on_name, other.name if other and other.digest != row.trained_on else None),
    }
    differs = {field: both for field, both in fixed.items() if both[1] is not None and both[0] != both[1]}
    if submission.log is not None and not row.curve:
        differs["training curve"] = (None, submission.log)
    today, rows = state_of(row), row.amendments
    states = [undone(today, rows[number:]) for number in range(len(rows), -1, -1)]  # the newest first
    declared: State = {
        **{name: value for name, value in submission.columns().items() if is_amendable(name)},
        "date": compact_date(parse_date(submission.date)) if submission.date else None,
        "dataset": submission.dataset,
        **{f"{TAG}{key}": value for key, value in submission.tags.items()},
    }
    for field, value in declared.items():
        if value is not None and all(state.get(field) != value for state in states):
            differs[field] = (states[0].get(field), value)
    return differs
