"""Registering an adapter: read the folder, let admission look at it, store the bytes, record the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import MissingFileError, UnsafePathError
from fusery.storage.manifest import Manifest, file_entry

from .. import tables
from ..adapters.files import WEIGHTS
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..admission import AdmissionError, Finding, examine, unreadable, verdict
from ..admission.submission import Submission
from ..database import events
from ..errors import AlreadyExistsError, BadInputError
from ..names import AdapterName, parse_slug
from ..records.datasets import dataset_row
from ..records.derived import adapter_columns, alpha_of
from ..records.references import load_adapters, next_version, resolve_adapter, resolve_base
from ..records.renderings import record_own_rendering
from ..records.views import adapter_view, trained_on_view
from ..training.facts import adapter_with_weights, record_run
from ..training.selection import Training, select_run
from .known_bytes import known_adapter
from .proposal import proposed_name
from .trained_on import named_by_files, trained_on

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Registered:
    """What `register` did.

    Attributes:
        view: the adapter as `show` prints it.
        created: it was not registered before.
    """

    view: dict[str, Any]
    created: bool


def check(
    workspace: Workspace, folder: Path, submission: Submission, *, strict: bool = False
) -> list[Finding]:
    """Return what admission finds in a folder.  Nothing is written.

    Args:
        workspace: the registry's parts.
        folder: the adapter's folder.
        submission: what the user says about it.
        strict: warnings count as errors.

    Raises:
        MissingFileError: there is no such folder.
        UnknownReferenceError: there is no such base.
    """
    try:
        found = _read(folder)
        training = select_run(found, submission)
        if training.weights != WEIGHTS:
            found = _read(folder, training.weights)
    except AdmissionError as error:
        return list(error.findings)
    submission = _with_base(workspace, found, submission)
    said = training.findings(found, submission)
    return _examine(workspace, found, submission, strict=strict, training=said)


def _read(path: Path, weights: str = WEIGHTS) -> AdapterFolder:
    """Read a folder; what is wrong with the folder itself is a finding too."""
    try:
        return read_adapter_folder(path, weights)
    except (UnsafePathError, MissingFileError) as error:
        if not path.is_dir():
            raise
        raise _refusal(path, [unreadable(error)], error.hint or "") from error


def _with_base(workspace: Workspace, folder: AdapterFolder, submission: Submission) -> Submission:
    """Return what the user said; where that is no base, with the one that the files name."""
    if submission.base is not None:
        return submission
    if submission.trained_on is not None:
        raise BadInputError(
            "it is said what it was trained on, and not which base it is to stand on", hint="give --base NAME"
        )
    with workspace.database.read() as session:
        return replace(submission, base=named_by_files(session, folder))


def _refusal(path: Path, findings: Sequence[Finding], hint: str) -> AdmissionError:
    errors = [finding for finding in findings if finding.severity == "error"]
    more = (
        f"; besides: {', '.join(dict.fromkeys(error.code for error in errors[1:]))}"
        if len(errors) > 1
        else ""
    )
    message = f"{path.name or path} was refused: {errors[0].code}: {errors[0].message}{more}"
    return AdmissionError(message, findings, hint=errors[0].hint or hint)


def _examine(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    *,
    strict: bool,
    weights: str | None = None,
    training: Iterable[Finding] = (),
) -> list[Finding]:
    from .evidence import candidate_for, policy_of

    candidate = candidate_for(workspace, folder, submission, weights=weights, training=training)
    return examine(candidate, policy_of(workspace, strict=strict))


def register(workspace: Workspace, path: Path, submission: Submission, *, strict: bool = False) -> Registered:
    """Register an adapter folder as the next version of its task.

    The same bytes under the same task a second time are the adapter that is already there (`fusery.registry.registration.known_bytes`).

    Args:
        workspace: the registry's parts.
        path: the adapter's folder.
        submission: what the user says about it.
        strict: warnings keep it out, as errors do.

    Raises:
        AdmissionError: admission found an error; nothing was written.
        AlreadyExistsError: the version is taken by another adapter.
        BadInputError: the task is not given, and no file names it.
        MissingFileError, UnknownReferenceError: there is no such folder, base or parent.
    """
    from ..records.deposit import Deposit

    # Hashed before anything is looked at: what is stored must be what was judged, and a trainer may still be writing.
    folder = _read(path)
    training = select_run(folder, submission)
    hashed = _hashed(folder if training.weights == WEIGHTS else _read(path, training.weights))
    folder = _read(path, training.weights)
    submission = _with_base(workspace, folder, submission)
    name = proposed_name(folder, submission, training.day)
    weights = next((entry.sha256 for entry in hashed if entry.path == WEIGHTS), None)
    said = training.findings(folder, submission)
    findings = _examine(workspace, folder, submission, strict=strict, weights=weights, training=said)
    if verdict(findings) == "fail":
        raise _refusal(path, findings, f"fusery check {path} --base {submission.base}")
    _refuse_early(workspace, name, hashed, submission)
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    manifest = deposit.put(folder.kept)
    if manifest != hashed:
        deposit.abandon()
        raise BadInputError(
            f"{path} changed while it was read", hint="register it when the training run has ended"
        )
    with deposit.recording() as session:
        stored = deposit.commit(session)
        task = _task(session, name.task)
        same = known_adapter(session, task, manifest.digest, submission)
        if same is not None:
            return Registered(adapter_view(session, same), created=False)
        version = _version(session, task, submission.version or name.version)
        final = AdapterName(task.name, version, name.date)
        adapter = _add(workspace, session, folder, submission, training, final, task, manifest, stored)
        for finding in findings:
            session.add(tables.AdapterFinding(adapter_id=adapter.id, **finding.to_dict()))
        session.flush()
        session.expire_all()
        adapter = session.scalars(load_adapters().where(tables.Adapter.id == adapter.id)).one()
        events.record(
            session,
            action="adapter.registered",
            kind="adapter",
            subject=adapter.name,
            detail={
                "digest": adapter.digest,
                "base": adapter.base.digest,
                **({"trained_on": trained_on_view(adapter)} if adapter.trained_on else {}),
                "val_loss": adapter.val_loss,
            },
            actor=workspace.actor,
            at=adapter.created_at,
        )
        return Registered(adapter_view(session, adapter), created=True)


def _hashed(folder: AdapterFolder) -> Manifest:
    if folder.header is None:
        # It will be refused for that: a file of holes that claims a terabyte is not read to its end before.
        return Manifest.of(())
    return Manifest.of(file_entry(path, file) for path, file in folder.kept.items())


def _refuse_early(
    workspace: Workspace, name: AdapterName, manifest: Manifest, submission: Submission
) -> None:
    """Say what the recording would say, before bytes are stored: an unknown parent, a version that is taken."""
    with workspace.database.read() as session:
        if submission.parent:
            resolve_adapter(session, submission.parent)
        task = session.scalar(select(tables.Task).where(tables.Task.name == name.task))
        if task is None:
            return
        if known_adapter(session, task, manifest.digest, submission) is None:
            _version(session, task, submission.version or name.version)


def _task(session: Session, name: str) -> tables.Task:
    task = session.scalar(select(tables.Task).where(tables.Task.name == name))
    if task is None:
        task = tables.Task(name=name)
        session.add(task)
        session.flush()
    return task


def _version(session: Session, task: tables.Task, wanted: int) -> int:
    if not wanted:
        return next_version(session, task)
    taken = session.scalar(
        select(tables.Adapter).where(tables.Adapter.task_id == task.id, tables.Adapter.version == wanted)
    )
    if taken is not None:
        raise AlreadyExistsError(
            f"version {wanted} of {task.name} is taken: {taken.name}, registered by {taken.created_by} "
            f"on {taken.created_at:%Y-%m-%d}",
            hint=f"give --version {next_version(session, task)} or another --task",
        )
    return wanted


def _add(
    workspace: Workspace,
    session: Session,
    folder: AdapterFolder,
    submission: Submission,
    training: Training,
    name: AdapterName,
    task: tables.Task,
    manifest: Manifest,
    stored: tables.Manifest,
) -> tables.Adapter:
    base = resolve_base(session, submission.base_name)
    other = trained_on(session, base, submission.trained_on)
    metadata = folder.metadata
    alpha = submission.alpha if submission.alpha is not None else alpha_of(folder)
    data = training.data
    examples = submission.examples if submission.examples is not None else metadata.training_examples
    if examples is None and data is not None:
        examples = data.examples
    dataset = submission.dataset or metadata.dataset or folder.config.data or (data.name if data else None)
    val_loss = submission.val_loss if submission.val_loss is not None else training.val_loss(folder)
    digest = (data.digest if data else None) or ""
    known = dataset_row(session, dataset, digest=digest, examples=examples) if dataset else None
    adapter = tables.Adapter(
        task_id=task.id,
        version=name.version,
        date=name.date,
        name=str(name),
        base_id=base.id,
        manifest_id=stored.id,
        **adapter_columns(folder, manifest.digest),
        alpha=alpha,
        total_parameters=base.parameters,
        val_loss=val_loss,
        iterations=training.iterations(folder),
        dataset_id=known.id if known else None,
        examples=examples,
        parent_id=_parent(session, submission, training),
        trained_on=other.digest if other else None,
        trained_on_name=other.name if other else None,
        note=submission.note,
        created_at=workspace.database.utcnow(session),
        created_by=workspace.actor,
    )
    session.add(adapter)
    session.flush()
    record_own_rendering(session, adapter, folder)
    if training.run.is_known:
        record_run(session, adapter, training.run, training.choice)
    for key, value in submission.tags.items():
        session.add(tables.AdapterTag(adapter_id=adapter.id, key=parse_slug(key, "tag"), value=value))
    return adapter


def _parent(session: Session, submission: Submission, training: Training) -> int | None:
    """Return the parent that was said, or else the adapter that the run recorded it went on from."""
    if submission.parent:
        return resolve_adapter(session, submission.parent).id
    known = adapter_with_weights(session, training.continued) if training.continued else None
    return known.id if known else None
