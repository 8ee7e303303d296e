"""Registering an adapter: read the folder, let admission look at it, store the bytes, record the rest."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.copying import Staging
from fusery.storage.errors import MissingFileError, StorageError, UnsafePathError, typed
from fusery.storage.manifest import Manifest
from fusery.storage.transfer import require_room

from .. import tables
from ..adapters import CHECKPOINT, WEIGHTS, Finding, verdict
from ..adapters.folder import AdapterFolder, Take, on_base, read_adapter_folder, with_weights
from ..adapters.mlx_config import AdapterConfig, AdapterMetadata
from ..adapters.render import Form
from ..admission.code import AdmissionError
from ..admission.record_rules import name_in
from ..admission.rules import examine, took_part, unreadable
from ..admission.submission import Submission
from ..admission.tokenizer_rules import rendering_soon
from ..database import events
from ..errors import AlreadyExistsError, BadInputError
from ..names import AdapterName, parse_date, parse_task
from ..parsing import require_past
from ..records.adapter import MAX_VERSION, Registered
from ..records.references import load_adapters, next_version, require_version
from ..records.renderings import rendering_of
from ..records.views import adapter_records, trained_on_view
from .context import candidate_for, load_context, policy_of
from .new_adapter import Examined, add_adapter, existing_adapter, task_row
from .run_readers import select_folder, select_run
from .training_run import Training

if TYPE_CHECKING:
    from ..records.deposit import Deposit
    from ..workspace.workspace import Workspace


def check(
    workspace: Workspace, folder: Path, submission: Submission, *, strict: bool = False
) -> list[Finding]:
    """Return what admission finds in a folder.  Nothing is written."""
    try:
        adapter_folder, training = _read(folder, submission)
    except AdmissionError as error:
        return list(error.findings)
    context = load_context(workspace, adapter_folder, submission)
    adapter_folder = on_base(adapter_folder, context.facts.architecture)
    task = None
    with suppress(BadInputError):  # the task is unknown, which does not concern the bytes
        task = proposed_name(folder, adapter_folder, submission, training.day).task
    run_findings = training.findings(adapter_folder, submission)
    candidate = candidate_for(
        workspace, adapter_folder, submission, context=context, training=run_findings, task=task
    )
    return examine(candidate, policy_of(workspace, strict=strict))


def _read(path: Path, submission: Submission, take: Take | None = None) -> tuple[AdapterFolder, Training]:
    place, selected_training = select_folder(path, submission)
    with _readable(path):
        folder = read_adapter_folder(place, take, path if place != path else None)
    training = selected_training or select_run(folder, submission)
    with _readable(path):
        return with_weights(folder, training.checkpoint.name, take), training


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnsafePathError, MissingFileError) as error:
        if not path.is_dir():
            raise
        raise AdmissionError.of(path.name or str(path), [unreadable(error)], error.hint or "") from error


def register(
    workspace: Workspace,
    path: Path,
    submission: Submission,
    *,
    strict: bool = False,
    sources: Sequence[str] = (),
) -> Registered:
    """Register a folder as its task's next version, or return the record of the same bytes; `sources` default to the recipe's."""
    from ..records.deposit import Deposit

    store = workspace.store
    with ExitStack() as stack:
        # Admission reads copies: a trainer may still be writing the files.
        copies = store.staging_folder or stack.enter_context(workspace.scratch())
        staging = stack.enter_context(Staging(copies, lambda size: require_room(store, [size])))
        with rendering_soon():
            seen = _see(workspace, path, submission, staging, strict=strict)
        _refuse_early(workspace, seen)
        try:
            staging.require_unchanged()
        except StorageError as error:
            hint = "register it when the training run has ended"
            raise BadInputError(f"{path} changed while it was read", hint=hint) from error
        deposit = Deposit(workspace.database, workspace.store, workspace.owner())
        deposit.put(seen.copies, manifest=seen.manifest)
        return _record(workspace, deposit, seen, sources)


def _see(
    workspace: Workspace, path: Path, submission: Submission, staging: Staging, *, strict: bool
) -> Examined:
    folder, training = _read(path, submission, staging.take)
    context = load_context(workspace, folder, submission)
    folder = on_base(folder, context.facts.architecture)
    name = proposed_name(path, folder, submission, training.day)
    if (record := training.run.record) is not None:
        require_past("start of the training run", record.started())
    with workspace.database.read() as session:
        require_version(session, name.task, name.version)
    # What has no readable header will be refused for that: a file of holes is not read to its end before.
    copies = staging.copies(folder.kept) if folder.header is not None else {}
    peft = folder.form == "peft" and folder.header is not None
    rendering = rendering_of(folder.files, "mlx") if peft else None
    forms: list[tuple[Form, Manifest]] = [] if rendering is None else [("mlx", rendering)]
    manifest = Manifest.of(copy.entry(name) for name, copy in copies.items())
    weights = next((entry.sha256 for entry in rendering or manifest if entry.path == WEIGHTS), None)
    run_findings = training.findings(folder, submission)
    candidate = candidate_for(
        workspace, folder, submission, context=context, weights=weights, training=run_findings, task=name.task
    )
    findings = examine(candidate, policy_of(workspace, strict=strict))
    if verdict(findings) == "fail":
        hint = f"fusery check {typed(path)} --base {context.base.name}"
        raise AdmissionError.of(path.name or str(path), findings, hint)
    assert folder.header is not None  # what that comes from is an error whatever the settings say
    read = (folder, copies, manifest, forms)
    return Examined(*read, submission, training, None, context, name, findings, sketch=candidate.sketch())


def _record(workspace: Workspace, deposit: Deposit, seen: Examined, sources: Sequence[str]) -> Registered:
    with deposit.recording() as session:
        stored = deposit.commit(session)
        task = task_row(session, seen.name.task)
        same = existing_adapter(session, task, seen.manifest.digest, seen.submission, seen.context)
        if same is not None:
            return Registered.extending(adapter_records(session, [same])[0], created=False)
        version = _version(session, task, seen.submission.version or seen.name.version)
        name = AdapterName(task.name, version, seen.name.date)
        adapter = add_adapter(workspace, session, seen, name, stored, sources)
        number = adapter.id
        session.expire_all()
        adapter = session.scalars(load_adapters().where(tables.AdapterRow.id == number)).one()
        detail = {
            "digest": adapter.digest,
            "base": adapter.base.digest,
            **({"trained_on": trained_on_view(adapter)} if adapter.trained_on else {}),
            "val_loss": adapter.val_loss,
            # That it was computed here, and not only says so in its files.
            **({"tool": f"fusery {installed('fusery')}"} if sources and not workspace.role else {}),
            **({"plugins": others} if (others := took_part()) else {}),
        }
        events.record(session, "adapter.registered", "adapter", adapter.name, detail, at=adapter.created_at)
        return Registered.extending(adapter_records(session, [adapter])[0], created=True)


def _refuse_early(workspace: Workspace, seen: Examined) -> None:
    """Say before bytes are stored what the recording would say: a version that is taken, other facts about known bytes."""
    with workspace.database.read() as session:
        task = session.scalar(select(tables.TaskRow).where(tables.TaskRow.name == seen.name.task))
        if task is None:
            return
        if existing_adapter(session, task, seen.manifest.digest, seen.submission, seen.context) is None:
            _version(session, task, seen.submission.version or seen.name.version)


def _version(session: Session, task: tables.TaskRow, wanted: int) -> int:
    number = wanted or next_version(session, task)
    if number > MAX_VERSION:
        hint = "give --version N, one that is free"
        raise BadInputError(f"there is no version after {MAX_VERSION}, which {task.name} has", hint=hint)
    if not wanted:
        return number
    row = tables.AdapterRow
    taken = session.scalar(select(row).where(row.task_id == task.id, row.version == wanted))
    if taken is not None:
        by = f"registered by {taken.created_by} on {taken.created_at:%Y-%m-%d}"
        hint = f"give --version {next_version(session, task)} or another --task"
        raise AlreadyExistsError(f"version {wanted} of {task.name} is taken: {taken.name}, {by}", hint=hint)
    return wanted


def proposed_name(
    path: Path, folder: AdapterFolder, submission: Submission, day: dt.date | None = None
) -> AdapterName:
    """Compose a name from flags, then metadata, then the folder's name, then the run's day or today; version 0 is the next one."""
    metadata = folder.metadata
    task, written = submission.task, name_in(metadata.adapter_name or "")
    if task is None:
        task = written.task if written else metadata.adapter_name
    if written is None:
        # The folder's name is the last resort.
        called = path.resolve()
        written = name_in(called.parent.name if CHECKPOINT.fullmatch(called.name) else called.name)
        task = task or (written.task if written else None)
    if written and task and written.task != parse_task(task):
        # A name tells the version and the date of its own task only.
        written = None
    if not task:
        raise BadInputError("the adapter's task is unknown", hint="give --task, such as --task course_rec")
    source = "--date" if submission.date else "date of training"
    date = written.date if written else day or dt.datetime.now(dt.UTC).date()
    if submission.date:
        date = parse_date(submission.date)
    elif metadata.training_date:
        with suppress(BadInputError):
            date = parse_date(metadata.training_date[:10])
    require_past(source, date)
    version = submission.version or metadata.version or (written.version if written else None) or 0
    if submission.version is not None and submission.version < 1:
        raise BadInputError("versions count from 1", hint="leave out --version to get the next one")
    return AdapterName(parse_task(task), version, date)


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def data_source(args: Any) -> str | None:
    """Return the data folder, or the hub's name of the dataset, of the trainer's arguments."""
    collection = getattr(args, "hf_dataset", None)
    if collection:
        first = collection if isinstance(collection, dict) else collection[0]
        return str(first.get("path"))
    return str(args.data) if args.data else None


def require_data(args: Any) -> None:
    """Refuse a data folder that is not there, or has nothing to train on."""
    source = data_source(args)
    if not args.train or source is None or getattr(args, "hf_dataset", None):
        return
    folder = Path(source)
    if not folder.exists():
        if _HUB_NAME.fullmatch(source):
            return
        hint = "--data FOLDER, with train.jsonl and valid.jsonl in it"
        raise BadInputError(f"there is no data folder {source}", hint=hint)
    train = folder / "train.jsonl"
    if not train.is_file() or train.stat().st_size == 0:
        hint = "one JSON object a line, as mlx-lm reads it"
        raise BadInputError(f"there is nothing to train on in {source}: no train.jsonl", hint=hint)


def require_registrable(
    workspace: Workspace,
    submission: Submission,
    folder: Path,
    *,
    model: str,
    iterations: int,
    same: bool = False,
) -> None:
    """Refuse what `register` would refuse afterwards for what is known now."""
    from ..admission.base_rules import declared_base

    try:
        config = AdapterConfig.model_validate({"model": model, "iters": iterations})
        to_come = AdapterFolder(folder, {}, config, {}, AdapterMetadata(), None, {}, ())
        name = proposed_name(folder, to_come, submission)
        candidate = candidate_for(workspace, to_come, submission)
        for finding in policy_of(workspace).apply(declared_base(candidate)):
            if finding.severity == "error":
                own = f"leave out --model: {candidate.base.name} is trained"
                hint = own if same else finding.hint or None
                raise BadInputError(f"--model {model} is not the base {candidate.base.name}", hint=hint)
    except (ValueError, OSError) as error:  # of pydantic, and of a path that is too long
        hint = "check --adapter-path, --model and --iters"
        raise BadInputError("invalid folder, model or number of iterations", hint=hint) from error
    with workspace.database.read() as session:
        task = session.scalar(select(tables.TaskRow).where(tables.TaskRow.name == name.task))
        if task is not None and name.version:
            _version(session, task, name.version)
