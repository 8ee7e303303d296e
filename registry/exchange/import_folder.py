"""Import an exported adapter: verify its files against its metadata, then register it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.errors import MissingFileError
from fusery.storage.folder import scan
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import FileEntry, manifest_of
from fusery.storage.plaintext import is_keepable, typed, visible

from .. import tables
from ..adapters.files import METADATA
from ..adapters.folder import read_adapter_folder
from ..adapters.render import FORM_FILES, Form
from ..adapters.tokenizer_files import is_tokenizer_file
from ..admission.submission import DECLARED, Submission, TrainedOn
from ..comparison.harness_results import MetricValue, require_measured
from ..comparison.measured import adopt_evaluations
from ..documents import FORMAT, KEY
from ..errors import BadInputError, UnknownReferenceError
from ..limits import EVALUATIONS, require_count
from ..names import AdapterName, compact_date
from ..records.adapter import Registered
from ..records.references import load_adapters, resolve_adapter, resolve_base
from ..records.renderings import recorded_digest
from ..records.views import registered_record
from ..registration.amend import Correction, amend
from ..registration.register import register
from ..wire import decode

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A base model or an adapter by name and digest; bases with the same content are the same."""

    name: str
    digest: Digest
    content: Digest | None = None


@dataclass(frozen=True, slots=True)
class _Amendment:
    field: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _ImportFacts:
    """The facts that this module reads; `Submission` checks the other declared ones."""

    date: str
    alpha: float | None = None
    amendments: tuple[_Amendment, ...] = ()
    evaluations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class _Exported:
    """The entry `fusery` of `adapter_metadata.json`; see `export`."""

    name: str
    digest: Digest
    form: Form
    rendered: bool
    files: tuple[FileEntry, ...]
    base: _Pinned
    facts: Mapping[str, Any]
    parent: _Pinned | None = None
    trained_on: _Pinned | None = None
    tokenizer: tuple[FileEntry, ...] = ()
    metadata: str | None = None


def import_adapter(workspace: Workspace, folder: Path, *, base: str | None = None) -> Registered:
    """Register an exported folder under its exported name, version, digest and facts.

    `base` replaces the base model with the recorded digest.
    """
    paths = {file.path: file.real for file in scan(folder)}
    if METADATA not in paths:
        raise MissingFileError(
            f"{folder.name} has no {METADATA}", hint="give a folder that fusery get wrote, adapters_NAME"
        )
    exported, facts = _read_metadata(read_object(paths[METADATA]), folder)
    files = _own_files(paths, exported, folder)
    evaluations = list(_evaluations(exported.name[:200], facts))
    if exported.rendered:
        done = _already_here(workspace, exported, files, folder)
    else:
        with workspace.cache.scratch() as scratch:
            copied = scratch / "adapter"
            for name, path in files.items():
                (copied / name).parent.mkdir(parents=True, exist_ok=True)
                copy_file(path, copied / name)
                files[name] = copied / name
            if exported.metadata is not None:
                files[METADATA] = copied / METADATA
                files[METADATA].write_text(exported.metadata, encoding="utf-8", newline="")
            if manifest_of(files).digest != exported.digest:
                raise BadInputError(
                    f"the digest in {METADATA} ({exported.digest[:12]}) does not match the files",
                    hint=f"restore {METADATA} as it was exported",
                )
            done = register(workspace, copied, _submission(workspace, exported, facts, copied, base))
        amended = next((each for each in reversed(facts.amendments) if each.field == "date"), None)
        if amended is not None and done.date != facts.date:  # the name has the first one
            amend(workspace, done.name, Correction(date=facts.date, reason=f"as exported: {amended.reason}"))
            with workspace.database.read() as session:
                adapter = resolve_adapter(session, done.name)
                done = registered_record(session, adapter, created=done.created)
    adopt_evaluations(workspace, done.name, evaluations)
    return done


def _read_metadata(document: Mapping[str, Any], folder: Path) -> tuple[_Exported, _ImportFacts]:
    inner = document.get(KEY)
    if not isinstance(inner, Mapping) or inner.get("format") != FORMAT:
        raise BadInputError(
            f"{folder.name} was not exported by fusery: {METADATA} has no entry {KEY!r} with the format {FORMAT}",
            hint=f"fusery register {typed(folder)} --base NAME --task TASK",
        )
    try:
        exported: _Exported = decode(_Exported, inner)
        facts: _ImportFacts = decode(_ImportFacts, exported.facts)
        if not is_keepable(exported.metadata or ""):
            raise ValueError("metadata: invalid characters")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInputError(
            f"{METADATA}: invalid entry {KEY!r}: {visible(str(error)[:200])}", hint="export it again"
        ) from error
    return exported, facts


def _own_files(paths: Mapping[str, Path], exported: _Exported, folder: Path) -> dict[str, Path]:
    """Return the files of the format and the tokenizer, and verify their digests."""
    tokenizer = (file.path for file in exported.tokenizer if is_tokenizer_file(file.path))
    files = {}
    for name in (*FORM_FILES[exported.form], *tokenizer):
        if name not in paths:
            raise MissingFileError(
                f"{folder.name} has no {name}", hint="export it again, or restore the file"
            )
        files[name] = paths[name]
        with paths[name].open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise BadInputError(f"{name} is a Git LFS pointer, not the file", hint="git lfs pull")
    recorded = {file.path: file.sha256 for file in (*exported.files, *exported.tokenizer)}
    for entry in manifest_of(files):
        if recorded.get(entry.path) != entry.sha256:
            raise BadInputError(
                f"{entry.path} in {folder.name} was changed after the export",
                hint="restore the file, or register a new adapter: fusery register",
            )
    return files


def _evaluations(name: str, facts: _ImportFacts) -> Iterator[tuple[MetricValue, str | None]]:
    """Yield the evaluations, each with the digest of its results file."""
    require_count(name, "evaluations", EVALUATIONS, len(facts.evaluations))
    for each in facts.evaluations:
        values = {key: value for key, value in each.items() if value is not None}
        try:
            measured, source = decode(MetricValue, values), decode(Digest | None, values.get("source"))
        except (ValueError, TypeError) as error:
            raise BadInputError(f"{METADATA}: invalid evaluation: {error}", hint="export it again") from error
        require_measured(measured, METADATA)
        yield measured, source


def _already_here(
    workspace: Workspace, exported: _Exported, files: Mapping[str, Path], folder: Path
) -> Registered:
    """Return the adapter that a rendering belongs to; a rendering alone does not have the adapter's digest."""
    digest = manifest_of({name: files[name] for name in FORM_FILES[exported.form]}).digest
    with workspace.database.read() as session:
        query = (
            load_adapters().where(tables.AdapterRow.digest == exported.digest).order_by(tables.AdapterRow.id)
        )
        for adapter in session.scalars(query):
            if recorded_digest(adapter, exported.form) == digest:
                return registered_record(session, adapter, created=False)
    raise BadInputError(
        f"{folder.name} holds a form that was computed from {exported.name}, and {exported.name} itself is not registered here",
        hint=f"get it without --format, or remove {METADATA} to register this form as an adapter of its own",
    )


def _submission(
    workspace: Workspace, exported: _Exported, facts: _ImportFacts, copied: Path, base: str | None
) -> Submission:
    folder, trained_on = read_adapter_folder(copied), exported.trained_on
    from_scale = folder.scale * folder.rank if folder.scale is not None and folder.rank else None
    known = (folder.metadata.lora_alpha, folder.alpha, from_scale)
    alpha = next((alpha for alpha in known if alpha is not None), None)
    names = tuple(name for name in (folder.config.model, folder.metadata.base_model) if name)
    declared: dict[str, Any] = {
        name: exported.facts.get(name) for name, about in DECLARED.items() if not about.later
    }
    declared |= {
        "base": _base(workspace, exported, base),
        "date": compact_date(AdapterName.parse(exported.name).date),
        # An alpha that the files have need not be declared.
        "alpha": None if facts.alpha == alpha else facts.alpha,
        "parent": _parent(workspace, exported.parent) if exported.parent is not None else None,
        "trained_on": TrainedOn(trained_on.name, trained_on.digest, frozenset(names)) if trained_on else None,
        # The digest proves what the names can only claim.
        "base_known_as": () if base else names,
        "tags": exported.facts.get("tags", {}),
    }
    return Submission(**declared)


def _base(workspace: Workspace, exported: _Exported, base: str | None) -> str:
    """Return the name of the base: the requested one, or the one with the recorded digest."""
    row, pinned, name = tables.BaseModelRow, exported.base, exported.name
    with workspace.database.read() as session:
        if base is not None:
            return resolve_base(session, base).name
        same = row.digest == pinned.digest
        if pinned.content is not None:
            same |= row.content == pinned.content
        if (known := session.scalars(select(row).where(same).order_by(row.id)).first()) is not None:
            return known.name
        other = session.scalar(
            select(tables.BaseNameRow.name).where(tables.BaseNameRow.folded == pinned.name.casefold())
        )
    if other is not None:
        raise UnknownReferenceError(
            f"{name} needs {pinned.name} with the digest {pinned.digest[:12]}, and {other} in this registry is another",
            hint=f"if it fits all the same: --base {other}",
        )
    raise UnknownReferenceError(
        f"{name} needs the base {pinned.name} ({pinned.digest[:12]}), which is not in this registry",
        hint=f"fusery base add SOURCE --name {pinned.name}",
    )


def _parent(workspace: Workspace, parent: _Pinned) -> str | None:
    """Return the parent's name, if that adapter is here."""
    with workspace.database.read() as session:
        query = select(tables.AdapterRow.name).where(tables.AdapterRow.digest == parent.digest)
        names = set(session.scalars(query))
    return parent.name if parent.name in names else min(names, default=None)
