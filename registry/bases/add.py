"""Adding a base model.

A base is identified by its content (`fusery.registry.models.identity`): tensors, configuration and tokenizer.  Names, hub
ids and folders only refer to it, so the same model under two names, or in other files, is one base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_file
from fusery.storage.errors import MissingFileError
from fusery.storage.folder import scan
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.room import needs_of, require_rooms

from .. import tables
from ..database import events
from ..errors import AlreadyExistsError, BadInputError
from ..models.architecture import WEIGHTS, Architecture
from ..models.identity import Identity, identify_base
from ..names import parse_base_name
from ..records.base import AddedBase
from ..records.base_views import base_facts
from ..records.derived import base_columns, describe_base, require_recordable, require_sensible
from ..records.scratch import scratch_folder
from .contents import learn_contents, may_be
from .fetch import FetchedBase, fetched
from .findings import look_at_base

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace

_COMPANIONS = re.compile(
    r"config\.json|generation_config\.json|tokenizer[^/]*\.(json|jinja|model)|[^/]*\.tiktoken|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)|additional_chat_templates/[^/]+\.jinja"
    r"|(pre)?processor_config\.json|LICENSE[^/]*|model\.safetensors\.index\.json"
)


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder that make up the model: weights, configuration, tokenizer, licence.

    Python files, checkpoints of other formats and everything else stay behind.

    Raises:
        MissingFileError: there is no such folder, or no `config.json` in it.
        UnsafePathError: a link leaves the folder, or something in it is not a plain file.
    """
    files = {file.path: file.real for file in scan(folder) if is_model_file(file.path)}
    if "config.json" not in files:
        raise MissingFileError(
            f"{folder} holds no config.json", hint="give the folder of a model in MLX or Hugging Face layout"
        )
    return files


def is_model_file(path: str) -> bool:
    """Tell whether a file within a model's folder is one of those that make up the model."""
    return bool(_COMPANIONS.fullmatch(path) or WEIGHTS.fullmatch(path))


def add_base(
    workspace: Workspace,
    source: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    reference: bool = False,
    reporter: Reporter = SILENT,
) -> AddedBase:
    """Add a base model, or a name to one that is already there.

    Args:
        workspace: the registry's parts.
        source: a model folder, a GGUF file, or a hub id.
        name: of the base; by default that of the source.
        revision: the hub's branch, tag or commit.
        reference: record the files where they lie, instead of copying them into the store.
        reporter: hears what is going on, and the bytes done and the total; what is copied is read twice.

    Raises:
        AlreadyExistsError: the name is taken by a base with other bytes.
        AdmissionError: a finding is configured as an error.
        FuseryError: of the source, the format or the store.
    """
    if name is not None:
        parse_base_name(name)
    workspace.ensure()
    with fetched(
        source, revision=revision, scratch=partial(scratch_folder, workspace), say=reporter.say
    ) as origin:
        if reference and not origin.durable:
            raise BadInputError(
                "a GGUF file is converted and cannot be kept by reference", hint="leave out --reference"
            )
        called = parse_base_name(name or _tidy(origin.name))
        files = model_files(origin.folder)
        require_sensible(files)
        failures: list[str] = []
        architecture = describe_base(files, failures.append)
        require_recordable(architecture)
        _refuse_taken(workspace, called, files, architecture)
        findings = look_at_base(workspace, called, files, architecture.config, failures)
        reporter.say("hashing and copying" if not reference else "hashing")
        size = sum(file.stat().st_size for file in files.values())
        told = tally(reporter.progress, size if reference else 2 * size)
        identity = identify_base(files, architecture.config, progress=told)
        learn_contents(workspace, identity, architecture, reporter.say)
        added = _record(workspace, origin, called, files, architecture, identity, reference, told)
        return replace(added, findings=findings)


def _tidy(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-._/") or "base"


def _refuse_taken(
    workspace: Workspace, name: str, files: Mapping[str, Path], architecture: Architecture
) -> None:
    """Say that a name is taken before gigabytes are read, where configuration and shapes can tell."""
    with workspace.database.read() as session:
        row = session.scalar(select(tables.BaseName).where(tables.BaseName.folded == name.casefold()))
        if row is None:
            return
        base = row.base
        known = {file.path: (file.size, file.sha256) for file in base.manifest.files}
        alike = may_be(base, architecture)
    sizes = {path: file.stat().st_size for path, file in files.items()}
    same = sizes == {path: size for path, (size, _) in known.items()}
    if same and digest_file(files["config.json"])[0] == known["config.json"][1]:
        return
    if not alike:
        raise _taken(name)


def _taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"the name {name!r} belongs to a base model with other bytes", hint="give another one with --name"
    )


def _record(
    workspace: Workspace,
    origin: FetchedBase,
    name: str,
    files: Mapping[str, Path],
    architecture: Architecture,
    identity: Identity,
    reference: bool,
    progress: Progress | None,
) -> AddedBase:
    from ..records.deposit import Deposit, record_manifest

    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    manifest = identity.manifest
    with workspace.database.read() as session:
        known = _same(session, identity)
        _refuse_other(session, name, known)
        # What is there in other files is not stored again.
        stores = not reference and (known is None or known.digest == manifest.digest)
    if stores:
        new = [entry.size for entry in manifest] if known is None else []
        require_rooms([*needs_of(workspace.store, new), *workspace.notes])
        deposit.put(files, manifest=manifest, progress=progress)
    # Bases are never removed, so what was known is still there.
    with deposit.recording() as session:
        base = _same(session, identity)
        created, now = base is None, workspace.database.utcnow(session)
        if base is None:
            row = record_manifest(session, manifest) if reference else deposit.commit(session)
            base = _new_base(workspace, origin, architecture, identity, row, reference, now)
            session.add(base)
            session.flush()
        elif base.digest == manifest.digest:
            if stores:
                deposit.commit(session)
                base.location = None
            elif base.location is not None:
                base.location = str(origin.folder.resolve())
        base.content = identity.content
        same_as = base.name if not created and base.digest != manifest.digest else None
        _name(session, base, name, now)
        _revise(session, base, origin, now)
        session.flush()
        session.refresh(base)
        facts = base_facts(base)
        events.record(
            session,
            action="base.added",
            kind="base",
            subject=base.digest,
            detail={"name": name, "source": origin.source, "reference": reference, "created": created},
            actor=workspace.actor,
            at=now,
        )
    if same_as is not None:
        deposit.abandon()  # somebody added it in other files, while these were stored
    return AddedBase(**facts, created=created, same_as=same_as, findings=())


def _same(session: Session, identity: Identity) -> tables.BaseModel | None:
    """Return the base with these files, or else the first one with this content."""
    by_files = select(tables.BaseModel).where(tables.BaseModel.digest == identity.manifest.digest)
    by_content = (
        select(tables.BaseModel)
        .where(tables.BaseModel.content == identity.content)
        .order_by(tables.BaseModel.id)
    )
    return session.scalar(by_files) or session.scalars(by_content).first()


def _refuse_other(session: Session, name: str, base: tables.BaseModel | None) -> None:
    """Refuse a name that belongs to another base."""
    row = session.scalar(select(tables.BaseName).where(tables.BaseName.folded == name.casefold()))
    if row is not None and (base is None or row.base_id != base.id):
        raise _taken(name)


def _new_base(
    workspace: Workspace,
    origin: FetchedBase,
    architecture: Architecture,
    identity: Identity,
    row: tables.Manifest,
    reference: bool,
    now: Any,
) -> tables.BaseModel:
    return tables.BaseModel(
        **base_columns(architecture, identity),
        manifest=row,
        location=str(origin.folder.resolve()) if reference else None,
        created_at=now,
        created_by=workspace.actor,
    )


def _name(session: Session, base: tables.BaseModel, name: str, now: Any) -> None:
    folded = name.casefold()
    row = session.scalar(select(tables.BaseName).where(tables.BaseName.folded == folded))
    if row is None:
        session.add(tables.BaseName(base_id=base.id, name=name, folded=folded, created_at=now))
    elif row.base_id != base.id:
        raise _taken(name)


def _revise(session: Session, base: tables.BaseModel, origin: FetchedBase, now: Any) -> None:
    known = {(row.source, row.revision) for row in base.revisions}
    if (origin.source, origin.revision) not in known:
        session.add(
            tables.BaseRevision(
                base_id=base.id, source=origin.source, revision=origin.revision, created_at=now
            )
        )
