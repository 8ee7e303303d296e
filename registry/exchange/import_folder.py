"""Importing an exported adapter: its files are held against what they say of themselves, then registered as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.errors import MissingFileError
from fusery.storage.folder import scan
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import Manifest, manifest_of

from .. import tables
from ..adapters.files import METADATA
from ..adapters.folder import read_adapter_folder
from ..adapters.render import FORM_FILES
from ..adapters.tokenizer_files import is_tokenizer_file
from ..admission.submission import Submission, TrainedOn
from ..errors import BadInputError, UnknownReferenceError
from ..evaluation.harness_results import Measured, require_measured
from ..evaluation.measured import adopt_evaluations
from ..names import AdapterName, compact_date
from ..records.adapter import Registered
from ..records.references import load_adapters, resolve_adapter, resolve_base
from ..records.renderings import recorded_digest
from ..records.views import registered_record
from ..registration.amend import amend
from ..registration.correction import Correction
from ..registration.register import register
from .export_metadata import ExportMetadata, read_export_metadata

if TYPE_CHECKING:
    from ..workspace import Workspace

_POINTER = b"version https://git-lfs.github.com/spec/"


def import_adapter(workspace: Workspace, folder: Path, *, base: str | None = None) -> Registered:
    """Register an exported folder under the name, version, digest and facts it was exported with.

    Args:
        workspace: the registry's parts.
        folder: as `export_adapter` wrote it.
        base: the base to register it on, instead of the one with the recorded digest.

    Raises:
        BadInputError: the folder was not exported by fusery, was changed since, or holds a form that was only rendered.
        UnknownReferenceError: its base is not in this registry.
        AlreadyExistsError: the version is taken by another adapter.
        AdmissionError: admission found an error.
    """
    found = {file.path: file.real for file in scan(folder)}
    if METADATA not in found:
        raise MissingFileError(
            f"{folder} has no {METADATA}", hint="give a folder that fusery export wrote, adapters_NAME"
        )
    said = read_export_metadata(read_object(found[METADATA]), folder)
    files = _own_files(found, said, folder)
    evaluations = _evaluations(said)
    if said.rendered:
        rendering = manifest_of({name: files[name] for name in FORM_FILES[said.form]})
        here = _already_here(workspace, said, rendering, folder)
        adopt_evaluations(workspace, here.name, evaluations)
        return here
    with workspace.cache.scratch() as scratch:
        copied = scratch / "adapter"
        copied.mkdir()
        for name, path in files.items():
            (copied / name).parent.mkdir(exist_ok=True)
            copy_file(path, copied / name)
        if said.metadata is not None:
            (copied / METADATA).write_text(said.metadata, encoding="utf-8", newline="")
        _require_digest(copied, said)
        done = register(workspace, copied, _submission(workspace, said, copied, base))
    done = _with_its_day(workspace, done, said)
    adopt_evaluations(workspace, done.name, evaluations)
    return done


def _evaluations(said: ExportMetadata) -> list[tuple[Measured, str | None]]:
    """Return what was measured where the folder was exported, each with the digest of the file that said it.

    Raises:
        BadInputError: one of them could not be recorded here.
    """
    found = []
    for each in said.facts.evaluations:
        values = each.model_dump(exclude={"source"})
        for name in ("dataset", "split", "harness"):
            values[name] = values[name] or ""
        measured = Measured(**values)
        require_measured(measured, METADATA)
        found.append((measured, each.source))
    return found


def _with_its_day(workspace: Workspace, done: Registered, said: ExportMetadata) -> Registered:
    """Correct the day as it was corrected where the folder was exported: the name has the one that was said at first."""
    told = next((each for each in reversed(said.facts.amendments) if each.field == "date"), None)
    if told is None or done.date == said.facts.date:
        return done
    reason = f"as exported: {told.reason}"
    amend(workspace, done.name, Correction(date=said.facts.date, reason=reason))
    with workspace.database.read() as session:
        return registered_record(session, resolve_adapter(session, done.name), created=done.created)


def _own_files(found: Mapping[str, Path], said: ExportMetadata, folder: Path) -> dict[str, Path]:
    """Return the two files of the form and the tokenizer files, each as it was exported."""
    names = [*FORM_FILES[said.form], *(file.path for file in said.tokenizer if is_tokenizer_file(file.path))]
    files = {}
    for name in names:
        if name not in found:
            raise MissingFileError(f"{folder} has no {name}", hint="export it again, or restore the file")
        files[name] = found[name]
        with found[name].open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise BadInputError(f"{name} is a pointer of Git LFS and not the file", hint="git lfs pull")
    recorded = {file.path: file.sha256 for file in (*said.files, *said.tokenizer)}
    for entry in manifest_of(files):
        if recorded.get(entry.path) != entry.sha256:
            raise BadInputError(
                f"{entry.path} in {folder} is not as it was exported",
                hint="restore the file; a changed adapter is another one: fusery register",
            )
    return files


def _require_digest(copied: Path, said: ExportMetadata) -> None:
    files = {path.relative_to(copied).as_posix(): path for path in copied.rglob("*") if path.is_file()}
    if manifest_of(files).digest != said.digest:
        raise BadInputError(
            f"{METADATA} names the digest {said.digest[:12]}, and the files have another",
            hint=f"restore {METADATA} as it was exported",
        )


def _already_here(
    workspace: Workspace, said: ExportMetadata, rendering: Manifest, folder: Path
) -> Registered:
    """Return the adapter that a rendering belongs to; a rendering alone does not have the adapter's digest."""
    with workspace.database.read() as session:
        query = load_adapters().where(tables.Adapter.digest == said.digest).order_by(tables.Adapter.id)
        for adapter in session.scalars(query):
            if recorded_digest(adapter, said.form) == rendering.digest:
                return registered_record(session, adapter, created=False)
    raise BadInputError(
        f"{folder} holds a form that was computed from {said.name}, and {said.name} itself is not registered here",
        hint="export it without --format, or take this form as an adapter of its own: fusery register",
    )


def _submission(workspace: Workspace, said: ExportMetadata, copied: Path, base: str | None) -> Submission:
    facts, folder = said.facts, read_adapter_folder(copied)
    known = [folder.metadata.lora_alpha, folder.alpha]
    if folder.scale is not None and folder.rank:
        known.append(folder.scale * folder.rank)
    from_files = next((alpha for alpha in known if alpha is not None), None)
    declared = (folder.config.model, folder.metadata.base_model)
    return Submission(
        base=_base(workspace, said, base),
        task=facts.task,
        version=facts.version,
        date=compact_date(AdapterName.parse(said.name).date),
        # What the files say already needs no saying.
        alpha=None if facts.alpha == from_files else facts.alpha,
        val_loss=facts.val_loss,
        dataset=facts.dataset,
        examples=facts.examples,
        parent=_parent(workspace, said),
        tags=facts.tags,
        note=facts.note,
        # The digest proves what the names can only claim.
        base_known_as=() if base else tuple(name for name in declared if name),
        trained_on=_trained_on(said, declared),
    )


def _trained_on(said: ExportMetadata, declared: Iterable[str | None]) -> TrainedOn | None:
    """Return the training base declared where it was exported; this registry need not have it."""
    if said.trained_on is None:
        return None
    known_as = frozenset(name for name in declared if name)
    return TrainedOn(said.trained_on.name, said.trained_on.digest, known_as)


def _base(workspace: Workspace, said: ExportMetadata, asked: str | None) -> str:
    """Return the name of the base: the requested one, or the one with the recorded digest."""
    with workspace.database.read() as session:
        if asked is not None:
            return resolve_base(session, asked).name
        same = tables.BaseModel.digest == said.base.digest
        if said.base.content is not None:
            same |= tables.BaseModel.content == said.base.content
        known = session.scalars(select(tables.BaseModel).where(same).order_by(tables.BaseModel.id)).first()
        if known is not None:
            return known.name
        named = session.scalar(
            select(tables.BaseName).where(tables.BaseName.folded == said.base.name.casefold())
        )
    name, digest = said.base.name, said.base.digest[:12]
    if named is not None:
        raise UnknownReferenceError(
            f"{said.name} stands on {name} with the digest {digest}, and the {name} of this registry is another",
            hint=f"if it fits all the same: --base {named.name}",
        )
    raise UnknownReferenceError(
        f"{said.name} stands on {name} ({digest}), which is not in this registry",
        hint=f"fusery base add SOURCE --name {name}",
    )


def _parent(workspace: Workspace, said: ExportMetadata) -> str | None:
    """Return the parent's name, if that adapter is here."""
    if said.parent is None:
        return None
    with workspace.database.read() as session:
        query = select(tables.Adapter.name).where(tables.Adapter.digest == Digest(said.parent.digest))
        names = set(session.scalars(query))
    return said.parent.name if said.parent.name in names else min(names, default=None)
