"""Adding a base model, which is identified by its content; names, hub ids and folders only refer to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import BlobCorruptError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.folder import scan
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import needs_of, require_rooms

from .. import tables
from ..database import events
from ..engine.config import WEIGHTS
from ..errors import AlreadyExistsError, BadInputError, FusionUnsupportedError, MissingExtraError
from ..fusion.base_forms import compare_forms
from ..models.architecture import Architecture
from ..models.identity import BaseIdentity, identify_base, lasting
from ..names import parse_base_name
from ..records.derived import base_columns, describe_base, require_recordable, require_sensible
from ..records.fused import AddedBase
from ..records.views import base_record
from ..remote.documents import BaseDocument
from ..runtime.mlx_keys import mlx_keys
from .sources import FetchedBase, fetched

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..adapters import Finding
    from ..workspace.workspace import Workspace


_COMPANIONS = re.compile(
    r"config\.json|generation_config\.json|tokenizer[^/]*\.(json|jinja|model)|[^/]*\.tiktoken|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)|additional_chat_templates/[^/]+\.jinja"
    r"|([\w-]+_)?(pre)?processor_config\.json|(LICEN[CS]E|NOTICE)[^/]*|model\.safetensors\.index\.json"
)


def model_files(folder: Path) -> dict[str, Path]:
    """Return a model's files: weights, configuration, tokenizer and licence, without programs and other checkpoints."""
    files = {file.path: file.real for file in scan(folder) if is_model_file(file.path)}
    if "config.json" not in files:
        hint = "give the folder of a model in MLX or Hugging Face layout"
        raise MissingFileError(f"{folder} holds no config.json", hint=hint)
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
    """Add a base model, or a name to one that is already there."""
    if name is not None:
        parse_base_name(name)
    workspace.ensure()
    with fetched(source, revision=revision, scratch=workspace.scratch, say=reporter.say) as origin:
        if reference and not origin.durable:
            message = "a GGUF file is converted and cannot be kept by reference"
            raise BadInputError(message, hint="leave out --reference")
        tidy = re.sub(r"[^A-Za-z0-9._/-]+", "-", origin.name).strip("-._/") or "base"
        called = parse_base_name(name or tidy)
        files = model_files(origin.folder)
        require_sensible(files)
        failures: list[str] = []
        architecture = describe_base(files, failures.append)
        require_recordable(architecture)
        _refuse_taken(workspace, called, architecture)
        findings = look_at_base(workspace, called, files, architecture.config, next(iter(failures), None))
        reporter.say("hashing and copying" if not reference else "hashing")
        size = sum(file.stat().st_size for file in files.values())
        byte_tally = tally(reporter.progress, size if reference else 2 * size)
        identity = identify_base(files, architecture.config, progress=byte_tally)
        added = _record(workspace, origin, called, files, architecture, identity, reference, byte_tally)
        if added.created:
            compare_forms(workspace, added.digest)
        return replace(added, findings=findings)


def _refuse_taken(workspace: Workspace, name: str, architecture: Architecture) -> None:
    """Say that a name is taken before gigabytes are read, where configuration and shapes can tell."""
    with workspace.database.read() as session:
        row = session.scalar(select(tables.BaseNameRow).where(tables.BaseNameRow.folded == name.casefold()))
        if row is not None and (
            row.base.parameters != architecture.parameters
            or lasting(row.base.config) != lasting(architecture.config)
        ):
            raise _taken(name)


def _taken(name: str) -> AlreadyExistsError:
    message = f"the name {name!r} belongs to a base model with other bytes"
    return AlreadyExistsError(message, hint="give another one with --name")


def _record(
    workspace: Workspace,
    origin: FetchedBase,
    name: str,
    files: Mapping[str, Path],
    architecture: Architecture,
    identity: BaseIdentity,
    reference: bool,
    progress: Progress,
) -> AddedBase:
    from ..records.deposit import Deposit, record_manifest

    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    manifest = identity.manifest
    with workspace.database.read() as session:
        same = _same(session, identity)
        _name(session, name, same)
        # The same content in other files is not stored again.
        stores = not reference and (same is None or same.digest == manifest.digest)
    if stores:
        new = [entry.size for entry in manifest] if same is None else []
        require_rooms([*needs_of(workspace.store, new), *workspace.notes])
        deposit.put(files, manifest=manifest, progress=progress)
    # Bases are never removed, so what was known is still there.
    with deposit.recording() as session:
        base = _same(session, identity)
        created, now = base is None, workspace.database.utcnow(session)
        if base is None:
            row = record_manifest(session, manifest) if reference else deposit.commit(session)
            folder = str(origin.folder.resolve()) if reference else None
            base = base_row(base_columns(architecture, identity), row, folder, now, workspace.actor)
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
        if _name(session, name, base) is None:
            folded = name.casefold()
            session.add(tables.BaseNameRow(base_id=base.id, name=name, folded=folded, created_at=now))
        source = {"source": origin.source, "revision": origin.revision}
        if tuple(source.values()) not in {(row.source, row.revision) for row in base.revisions}:
            session.add(tables.BaseRevisionRow(base_id=base.id, **source, created_at=now))
        session.flush()
        session.refresh(base)
        record = base_record(base)
        detail = {"name": name, "source": origin.source, "reference": reference, "created": created}
        events.record(session, "base.added", "base", base.digest, detail, at=now)
    if same_as is not None:
        deposit.abandon()  # somebody added it in other files, while these were stored
    return AddedBase.extending(record, created=created, same_as=same_as, findings=())


def _same(session: Session, identity: BaseIdentity) -> tables.BaseModelRow | None:
    """Return the base with these files, or else the first one with this content."""
    base = tables.BaseModelRow
    by_files = select(base).where(base.digest == identity.manifest.digest)
    by_content = select(base).where(base.content == identity.content).order_by(base.id)
    return session.scalar(by_files) or session.scalars(by_content).first()


def _name(session: Session, name: str, base: tables.BaseModelRow | None) -> tables.BaseNameRow | None:
    """Return the row of a name, None if it is free; refuse the name of another base."""
    row = session.scalar(select(tables.BaseNameRow).where(tables.BaseNameRow.folded == name.casefold()))
    if row is not None and (base is None or row.base_id != base.id):
        raise _taken(name)
    return row


def base_row(
    facts: Mapping[str, Any], manifest: tables.ManifestRow, folder: str | None, at: datetime, by: str
) -> tables.BaseModelRow:
    """Return the row of a new base model, from the facts of its files and the folder that they stay in."""
    of = {**facts, "manifest_id": manifest.id, "location": folder}
    return tables.BaseModelRow(**of, created_at=at, created_by=by)


def identify_received(document: BaseDocument, files: Mapping[str, Path]) -> Mapping[str, Any]:
    """Return the facts of a base model of another registry, computed from its files as for one that is added here."""
    hint = "nothing of it was recorded; fusery audit, on the other registry"
    require_sensible(files)
    architecture = describe_base(files)
    require_recordable(architecture)
    identity = identify_base(files, architecture.config)
    if identity.manifest.digest != document.digest:
        message = f"the files of {document.name} have other bytes than its digest {document.digest[:12]}"
        raise BlobCorruptError(message, hint=hint)
    if document.content not in (None, identity.content):
        contents = f"{str(document.content)[:12]} (its bytes: {identity.content[:12]})"
        raise BadInputError(f"wrong content digest of {document.name}: {contents}", hint=hint)
    return base_columns(architecture, identity)


def look_at_base(
    workspace: Workspace,
    name: str,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    failure: str | None,
) -> tuple[Finding, ...]:
    """Return the findings about a base; its chat templates are rendered once."""
    from ..adapters import verdict
    from ..adapters.tokenizer_files import reader
    from ..admission.base_rules import key_findings
    from ..admission.code import AdmissionError
    from ..admission.rules import SeverityPolicy
    from ..admission.tokenizer_rules import template_findings
    from ..engine.model_class import describe_by_class

    if failure is None and mlx_keys(config):
        try:
            describe_by_class(files, config)
        except FusionUnsupportedError as error:
            failure = error.message
        except MissingExtraError:
            pass
    with os_failures(f"read {name}", near=files["config.json"].parent):
        of_templates = list(template_findings(reader(files)))
    raw_findings = [*key_findings(config, failure), *of_templates]
    findings = SeverityPolicy.configured(workspace.settings.severities).apply(raw_findings)
    if verdict(findings) == "fail":
        raise AdmissionError.of(name, findings)
    return tuple(findings)
