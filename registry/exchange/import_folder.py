"""Import an exported adapter: verify its files against its metadata, and receive it as a document of a package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.errors import MissingFileError, typed, visible
from fusery.storage.folder import scan
from fusery.storage.jsonfile import is_keepable, read_object
from fusery.storage.manifest import FileEntry, manifest_of

from .. import tables
from ..adapters import METADATA
from ..adapters.folder import read_adapter_folder
from ..adapters.render import FORM_FILES, Form
from ..adapters.tokenizer_files import is_tokenizer_file
from ..documents import FORMAT, KEY
from ..errors import BadInputError, UnknownReferenceError
from ..records.adapter import Registered
from ..records.references import resolve_adapter, resolve_base
from ..records.views import adapter_records
from ..remote.documents import AdapterDocument, read_document
from ..wire import decode
from ..workspace.workspace import Workspace
from .checks import check_documents
from .receiving import Carrier, Receiver

_ORIGIN = "exported-folder"  # stands for the id of the registry: an exported folder does not have it
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A base model or an adapter by name and digest; bases with the same content are the same."""

    name: str
    digest: Digest
    content: Digest | None = None


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
    created_at: datetime | None = None
    parent: _Pinned | None = None
    trained_on: _Pinned | None = None
    tokenizer: tuple[FileEntry, ...] = ()
    metadata: str | None = None


def import_adapter(workspace: Workspace, folder: Path, *, base: str | None = None) -> Registered:
    """Record an exported adapter under its name, with its facts, amendments and evaluations; `base` replaces its base model."""
    paths = {file.path: file.real for file in scan(folder)}
    if METADATA not in paths:
        hint = "give a folder that fusery get wrote, adapters_NAME"
        raise MissingFileError(f"{folder.name} has no {METADATA}", hint=hint)
    exported = _read_metadata(read_object(paths[METADATA]), folder)
    files = _own_files(paths, exported, folder)
    if exported.rendered:
        problem = f"{folder.name} was computed from {exported.name}, and has another digest"
        hint = f"get it without --format, or remove {METADATA} to register this form as an adapter of its own"
        raise BadInputError(problem, hint=hint)
    with workspace.cache.scratch() as scratch:
        copied = scratch / "adapter"
        for name, path in files.items():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, copied / name)
            files[name] = copied / name
        if exported.metadata is not None:
            files[METADATA] = copied / METADATA
            files[METADATA].write_text(exported.metadata, encoding="utf-8", newline="")
        document = _document(workspace, exported, files, copied, base)
        check_documents([document])
        carrier = Carrier(None, files=files)
        [moved] = Receiver(workspace, workspace, carrier, _ORIGIN, lambda _: None).take([document])
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, moved.new_name)
        return Registered.extending(adapter_records(session, [adapter])[0], created=moved.state == "copied")


def _read_metadata(document: Mapping[str, Any], folder: Path) -> _Exported:
    inner = document.get(KEY)
    if not isinstance(inner, Mapping) or inner.get("format") != FORMAT:
        problem = f"{folder.name} was not exported by fusery: {METADATA} has no {KEY!r} of {FORMAT}"
        raise BadInputError(problem, hint=f"fusery register {typed(folder)} --base NAME --task TASK")
    try:
        exported: _Exported = decode(_Exported, inner)
        if not is_keepable(exported.metadata or ""):
            raise ValueError("metadata: invalid characters")
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"{METADATA}: invalid entry {KEY!r}: {visible(str(error)[:200])}"
        raise BadInputError(problem, hint="export it again") from error
    return exported


def _own_files(paths: Mapping[str, Path], exported: _Exported, folder: Path) -> dict[str, Path]:
    """Return the files of the format and the tokenizer, and verify their digests."""
    tokenizer = (file.path for file in exported.tokenizer if is_tokenizer_file(file.path))
    files = {}
    for name in (*FORM_FILES[exported.form], *tokenizer):
        if name not in paths:
            raise MissingFileError(f"{folder.name} has no {name}", hint="restore the file")
        files[name] = paths[name]
        with paths[name].open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise BadInputError(f"{name} is a Git LFS pointer, not the file", hint="git lfs pull")
    recorded = {file.path: file.sha256 for file in (*exported.files, *exported.tokenizer)}
    for entry in manifest_of(files):
        if recorded.get(entry.path) != entry.sha256:
            problem = f"{entry.path} in {folder.name} was changed after the export"
            raise BadInputError(problem, hint="restore the file, or register a new adapter")
    return files


def _document(
    workspace: Workspace, exported: _Exported, files: Mapping[str, Path], copied: Path, base: str | None
) -> AdapterDocument:
    """Return the adapter's document, with the user as the author of all that the folder names no author of."""
    folder, facts, by = read_adapter_folder(copied), exported.facts, workspace.actor
    names = [name for name in (folder.config.model, folder.metadata.base_model) if name]
    pinned, trained_on = _base(workspace, exported, base), exported.trained_on
    parent = _parent(workspace, exported.parent) if exported.parent is not None else None
    try:
        amendments = [{**fact, "since": fact["at"], "by": by} for fact in facts["amendments"]]
        added = {"adapter": exported.name, "by": by}
        measured = [{**evaluation, **added} for evaluation in facts.get("evaluations", ())]
        # Exports of 0.1.0 have no time of registration: amendments and evaluations are not earlier.
        times = [record["at"] for record in (*amendments, *measured)]
        earliest = min(times, default=datetime.now(UTC).isoformat())
    except (KeyError, TypeError) as error:
        problem = f"{METADATA}: invalid amendments or evaluations"
        raise BadInputError(problem, hint="export it again") from error
    values = {
        **{key: [] for key in ("aliases", "withdrawals", "findings")},
        **dict.fromkeys(("total_parameters", "trainable_percent"), 0),
        **facts,
        "name": exported.name,
        "digest": exported.digest,
        "base": pinned.name,
        "base_digest": pinned.digest,
        # The digest proves what the names can only claim.
        "base_names": [] if base else names,
        "trained_on": trained_on.name if trained_on else None,
        "trained_on_digest": trained_on.digest if trained_on else None,
        "trained_on_names": names if trained_on else [],
        "parent": parent,
        "parent_digest": exported.parent.digest if exported.parent and parent else None,
        "training": folder.raw_config,
        "yanked": False,
        "created_at": exported.created_at.isoformat() if exported.created_at else earliest,
        "created_by": by,
        "amendments": amendments,
        "evaluations": measured,
        "files": [entry.to_dict() for entry in manifest_of(files)],
        "kept": "folder",
    }
    document: AdapterDocument = read_document(AdapterDocument, values)
    return document


def _base(workspace: Workspace, exported: _Exported, base: str | None) -> _Pinned:
    """Return the base: the requested one, or the one with the recorded digest."""
    row, pinned, name = tables.BaseModelRow, exported.base, exported.name
    with workspace.database.read() as session:
        if base is not None:
            chosen = resolve_base(session, base)
            return _Pinned(chosen.name, Digest(chosen.digest))
        same = row.digest == pinned.digest
        if pinned.content is not None:
            same |= row.content == pinned.content
        if (base_row := session.scalars(select(row).where(same).order_by(row.id)).first()) is not None:
            return _Pinned(base_row.name, Digest(base_row.digest))
        named = tables.BaseNameRow
        other = session.scalar(select(named.name).where(named.folded == pinned.name.casefold()))
    hint = f"if {other} fits: --base {other}" if other else f"fusery base add SOURCE --name {pinned.name}"
    problem = f"{name} needs the base {pinned.name} ({pinned.digest[:12]}), which is not in this registry"
    raise UnknownReferenceError(problem, hint=hint)


def _parent(workspace: Workspace, parent: _Pinned) -> str | None:
    """Return the parent's name, if that adapter is here."""
    with workspace.database.read() as session:
        query = select(tables.AdapterRow.name).where(tables.AdapterRow.digest == parent.digest)
        names = set(session.scalars(query))
    return parent.name if parent.name in names else min(names, default=None)
