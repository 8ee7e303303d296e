"""Registering an adapter: read the folder, let admission look at it, store the bytes, record the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import MissingFileError, StorageError, UnsafePathError
from fusery.storage.manifest import Manifest
from fusery.storage.room import require_room
from fusery.storage.shell import typed
from fusery.storage.staging import Staged, Staging, manifest_of_staged

from .. import tables
from ..adapters.files import WEIGHTS
from ..adapters.finding import Finding, verdict
from ..adapters.folder import AdapterFolder, Take, on_base, read_adapter_folder, with_weights
from ..admission.examine import examine, unreadable
from ..admission.plugged import took_part
from ..admission.refusal import AdmissionError
from ..admission.submission import Submission
from ..admission.template_rules import rendering_soon
from ..database import events
from ..errors import AlreadyExistsError, BadInputError
from ..names import AdapterName, parse_slug
from ..parsing import require_past
from ..records.adapter import MAX_VERSION, Registered
from ..records.datasets import dataset_row
from ..records.derived import adapter_columns, alpha_of
from ..records.recipe import inherited_dataset, known_sources, recipe_in
from ..records.references import load_adapters, next_version, require_version, resolve_adapter
from ..records.renderings import record_rendering, rendering_of
from ..records.scratch import scratch_folder
from ..records.views import registered_record, trained_on_view
from ..training.facts import adapter_with_weights, record_run
from ..training.selection import Training, select_folder, select_run
from .ground import Ground, ground_of
from .known_bytes import known_adapter
from .proposal import proposed_name

if TYPE_CHECKING:
    from ..records.deposit import Deposit
    from ..workspace import Workspace


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
        found, training = _read(folder, submission)
    except AdmissionError as error:
        return list(error.findings)
    ground = _ground(workspace, found, submission)
    found = on_base(found, ground.facts.architecture)
    task = None
    with suppress(BadInputError):  # nothing says what it is for: that is no matter of its bytes
        task = proposed_name(folder, found, submission, training.day).task
    return _examine(workspace, found, submission, training, ground, strict=strict, task=task)


def _read(path: Path, submission: Submission, take: Take | None = None) -> tuple[AdapterFolder, Training]:
    """Read a folder with the weights that are meant; what is wrong with the folder itself is a finding too."""
    place, found = select_folder(path, submission)
    with _readable(path):
        folder = read_adapter_folder(place, take)
    training = found or select_run(folder, submission)
    with _readable(path):
        return with_weights(folder, training.weights, take), training


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnsafePathError, MissingFileError) as error:
        if not path.is_dir():
            raise
        raise AdmissionError.of(path.name or str(path), [unreadable(error)], error.hint or "") from error


def _ground(workspace: Workspace, folder: AdapterFolder, submission: Submission) -> Ground:
    with workspace.database.read() as session:
        return ground_of(workspace, session, folder, submission)


def _examine(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    training: Training,
    ground: Ground,
    *,
    strict: bool,
    task: str | None,
    weights: str | None = None,
) -> list[Finding]:
    from .evidence import candidate_for, policy_of

    said = training.findings(folder, submission)
    candidate = candidate_for(
        workspace, folder, submission, ground=ground, weights=weights, training=said, task=task
    )
    return examine(candidate, policy_of(workspace, strict=strict))


def register(
    workspace: Workspace,
    path: Path,
    submission: Submission,
    *,
    strict: bool = False,
    sources: Sequence[str] = (),
) -> Registered:
    """Register an adapter folder as the next version of its task.

    The same bytes under the same task a second time are the adapter that is already there (`fusery.registry.registration.known_bytes`).

    Args:
        workspace: the registry's parts.
        path: the adapter's folder.
        submission: what the user says about it.
        strict: warnings keep it out, as errors do.
        sources: names of the adapters that it was computed from, in the order of its recipe; where none are given, those
            on record that the recipe in its configuration names are meant.

    Raises:
        AdmissionError: admission found an error; nothing was written.
        AlreadyExistsError: the version is taken by another adapter.
        BadInputError: the task is not given, and no file names it; a date is in the future, or the version too large.
        MissingFileError, UnknownReferenceError: there is no such folder, base or parent.
    """
    from ..records.deposit import Deposit

    with _staging(workspace) as staging:
        with rendering_soon():
            seen = _see(workspace, path, submission, staging, strict=strict)
        _refuse_early(workspace, seen, submission)
        try:
            staging.require_unchanged()
        except StorageError as error:
            raise BadInputError(
                f"{path} changed while it was read", hint="register it when the training run has ended"
            ) from error
        deposit = Deposit(workspace.database, workspace.store, workspace.owner())
        deposit.put(seen.copies, manifest=seen.manifest)
        return _record(workspace, deposit, seen, submission, sources)


@dataclass(frozen=True, slots=True)
class _Seen:
    """An adapter that admission lets in: what its copies hold, and what it is to stand on.

    Attributes:
        folder: the files, which are copies.
        copies: those that are kept, by name.
        manifest: of these.
        rendering: of mlx-lm's form, where the adapter is in PEFT's.
        training: the run that it is of.
        ground: its base, and what else it stands on.
        name: what it is to be called; version 0 is the next.
        findings: what admission says.
    """

    folder: AdapterFolder
    copies: Mapping[str, Staged]
    manifest: Manifest
    rendering: Manifest | None
    training: Training
    ground: Ground
    name: AdapterName
    findings: Sequence[Finding]


@contextmanager
def _staging(workspace: Workspace) -> Iterator[Staging]:
    """Give the place where copies lie while admission looks at them: a trainer may still be writing the files."""
    store = workspace.store
    with ExitStack() as held:
        folder = store.staging_folder or held.enter_context(scratch_folder(workspace))
        yield held.enter_context(Staging(folder, lambda size: require_room(store, [size])))


def _see(
    workspace: Workspace, path: Path, submission: Submission, staging: Staging, *, strict: bool
) -> _Seen:
    folder, training = _read(path, submission, staging.take)
    ground = _ground(workspace, folder, submission)
    folder = on_base(folder, ground.facts.architecture)
    name = proposed_name(path, folder, submission, training.day)
    if (record := training.run.record) is not None:
        require_past("start of the training run", record.started())
    with workspace.database.read() as session:
        require_version(session, name.task, name.version)
    # What has no readable header will be refused for that: a file of holes is not read to its end before.
    copies = staging.copies(folder.kept) if folder.header is not None else {}
    peft = folder.form == "peft" and folder.header is not None
    rendering = rendering_of(folder.files, "mlx") if peft else None
    manifest = manifest_of_staged(copies)
    weights = next((entry.sha256 for entry in rendering or manifest if entry.path == WEIGHTS), None)
    findings = _examine(
        workspace, folder, submission, training, ground, strict=strict, task=name.task, weights=weights
    )
    if verdict(findings) == "fail":
        raise AdmissionError.of(
            path.name or str(path), findings, f"fusery check {typed(path)} --base {ground.base.name}"
        )
    assert folder.header is not None  # what that comes from is an error whatever the settings say
    return _Seen(folder, copies, manifest, rendering, training, ground, name, findings)


def _record(
    workspace: Workspace, deposit: Deposit, seen: _Seen, submission: Submission, sources: Sequence[str]
) -> Registered:
    with deposit.recording() as session:
        stored = deposit.commit(session)
        task = _task(session, seen.name.task)
        same = known_adapter(session, task, seen.manifest.digest, submission, seen.ground)
        if same is not None:
            return registered_record(session, same, created=False)
        version = _version(session, task, submission.version or seen.name.version)
        name = AdapterName(task.name, version, seen.name.date)
        adapter = _add(workspace, session, seen, submission, name, task, stored)
        _add_sources(session, adapter, sources)
        for finding in seen.findings:
            # Record the version: @latest names another adapter later.
            hint = finding.hint.replace(f"{name.task}@latest", f"{name.task}@{name.version}")
            session.add(tables.AdapterFinding(adapter_id=adapter.id, **{**finding.to_dict(), "hint": hint}))
        session.flush()
        number = adapter.id
        session.expire_all()
        adapter = session.scalars(load_adapters().where(tables.Adapter.id == number)).one()
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
                # That it was computed here, and not only says so in its files.
                **({"tool": f"fusery {installed('fusery')}"} if sources and not workspace.role else {}),
                **({"plugins": others} if (others := took_part()) else {}),
            },
            actor=workspace.actor,
            at=adapter.created_at,
        )
        return registered_record(session, adapter, created=True)


def _refuse_early(workspace: Workspace, seen: _Seen, submission: Submission) -> None:
    """Say before bytes are stored what the recording would say: a version that is taken, other facts about known bytes."""
    with workspace.database.read() as session:
        task = session.scalar(select(tables.Task).where(tables.Task.name == seen.name.task))
        if task is None:
            return
        if known_adapter(session, task, seen.manifest.digest, submission, seen.ground) is None:
            _version(session, task, submission.version or seen.name.version)


def _task(session: Session, name: str) -> tables.Task:
    task = session.scalar(select(tables.Task).where(tables.Task.name == name))
    if task is None:
        task = tables.Task(name=name)
        session.add(task)
        session.flush()
    return task


def _version(session: Session, task: tables.Task, wanted: int) -> int:
    number = wanted or next_version(session, task)
    if number > MAX_VERSION:
        raise BadInputError(
            f"there is no version after {MAX_VERSION}, which {task.name} has",
            hint="give --version N, one that is free",
        )
    if not wanted:
        return number
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
    seen: _Seen,
    submission: Submission,
    name: AdapterName,
    task: tables.Task,
    stored: tables.Manifest,
) -> tables.Adapter:
    folder, training = seen.folder, seen.training
    base, other, metadata = seen.ground.base, seen.ground.trained_on, folder.metadata
    alpha = submission.alpha if submission.alpha is not None else alpha_of(folder)
    data = training.data
    examples = submission.examples if submission.examples is not None else metadata.training_examples
    if examples is None and data is not None:
        examples = data.examples
    dataset = submission.dataset or metadata.dataset or folder.config.data or (data.name if data else None)
    val_loss = submission.val_loss if submission.val_loss is not None else training.val_loss(folder)
    digest = (data.digest if data else None) or ""
    revision = (data.fingerprint if data and data.name in (None, dataset) else None) or ""
    known = (
        dataset_row(session, dataset, revision=revision, digest=digest, examples=examples)
        if dataset
        else None
    )
    adapter = tables.Adapter(
        **{
            **submission.columns(),
            **adapter_columns(folder, seen.manifest.digest),
            "version": name.version,
            "date": name.date,
            "alpha": alpha,
            "val_loss": val_loss,
            "examples": examples,
        },
        task_id=task.id,
        name=str(name),
        base_id=base.id,
        manifest_id=stored.id,
        total_parameters=base.parameters,
        iterations=training.iterations(folder),
        dataset_id=known.id if known else None,
        parent_id=_parent(session, seen),
        trained_on=other.digest if other else None,
        trained_on_name=other.name if other else None,
        created_at=workspace.database.utcnow(session),
        created_by=workspace.actor,
    )
    session.add(adapter)
    session.flush()
    if seen.rendering is not None:
        record_rendering(session, adapter, "mlx", seen.rendering, adapter.created_at)
    if training.run.is_known:
        record_run(session, adapter, training.run, training.choice)
    for key, value in submission.tags.items():
        session.add(tables.AdapterTag(adapter_id=adapter.id, key=parse_slug(key, "tag"), value=value))
    return adapter


def _add_sources(session: Session, adapter: tables.Adapter, sources: Sequence[str]) -> None:
    recipe = recipe_in(adapter.training)
    if recipe is None:
        return
    named = [resolve_adapter(session, name) for name in sources]
    if named and tuple(source.digest for source in named) != recipe.sources:
        raise BadInputError("the recipe names other adapters than those it was computed from")
    rows = [
        tables.AdapterSource(position=position, source_id=source.id) for position, source in enumerate(named)
    ] or known_sources(session, recipe, adapter.base_id)
    for row in rows:
        row.adapter_id = adapter.id
        session.add(row)
    if adapter.dataset_id is None:
        adapter.dataset_id = inherited_dataset(session, recipe, [row.source_id for row in rows])


def _parent(session: Session, seen: _Seen) -> int | None:
    """Return the parent that was said, or else the adapter that the run recorded it went on from."""
    if seen.ground.parent is not None:
        return seen.ground.parent.id
    continued = seen.training.continued
    known = adapter_with_weights(session, continued) if continued else None
    return known.id if known else None
