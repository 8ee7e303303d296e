"""Folders of this machine with the files of an adapter or a base model, as mlx-lm and PEFT load them.

They lie in the cache beside the fused models, each under the digest of its files: whole, read-only, checked, pinned and
removed by the same rules.  A base that was added by reference is given as it lies, if nothing else lies beside it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.manifest import FileEntry, Manifest, manifest_of
from fusery.storage.room import Need, require_rooms

from .. import tables
from ..adapters.render import FORMS, Form
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from .base_files import base_manifest, completed_config, proven_files
from .fused_label import label_of
from .references import resolve_adapter, resolve_any, resolve_base
from .renderings import fetch_form
from .scratch import scratch_folder
from .withdrawal import Withdrawal
from .withdrawals import of_adapters, of_fused, refuse_yanked

if TYPE_CHECKING:
    from ..workspace import Workspace

CONFIG = "config.json"
_HARMLESS = ("", ".md", ".png", ".jpg")
_LATELY = 3600.0
"""Seconds in which a folder that was handed out stays, whatever the limit."""


@dataclass(frozen=True, slots=True)
class LocalFolder(Record):
    """Where the files of something are on this machine."""

    kind: Literal["adapter", "base", "fused"] = described("`adapter`, `base` or `fused`")
    name: str = described("its name; the label of a fused model")
    digest: str = described("its digest")
    format: str | None = described("format of an adapter's files, `mlx` or `peft`; None for models")
    path: Path = described("the folder, which is not to be written to")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")


def local_folder(workspace: Workspace, reference: str, form: str | None = None) -> LocalFolder:
    """Return a folder of this machine with the files of an adapter, a base model or a fused model.

    Args:
        workspace: the registry's parts.
        reference: what is meant; of a fused model its key or digest.
        form: of an adapter's files, `mlx` or `peft`; None for mlx-lm's.

    Raises:
        UnknownReferenceError: nothing has that name, or the fused model is not on this machine.
        BadInputError: the adapter is yanked or has no such form, or a form was given for a model.
    """
    with workspace.database.read() as session:
        found = resolve_any(session, reference)
        if (row := found.fused) is not None:
            here = _lookup(workspace, session, row)
            if here is None:
                raise UnknownReferenceError(
                    f"{label_of(row)} is not on this machine",
                    hint=f"fusery fuse {row.adapter.name} --recipe {row.key}",
                )
            told = of_fused(session, [row.id]).get(row.id, ())
            name, digest = label_of(row), row.digest
        elif found.base is not None:
            name, digest, told = found.base.name, found.base.digest, ()
        else:
            assert found.adapter is not None
            name, digest = found.adapter.name, found.adapter.digest
            told = of_adapters(session, [found.adapter.id]).get(found.adapter.id, ())
    if found.adapter is not None:
        path = adapter_folder(workspace, name, form or "mlx")
        return LocalFolder("adapter", name, digest, form or "mlx", path, told)
    if form is not None:
        raise BadInputError(f"{name} is a model, and a format is one of adapters", hint="leave out --format")
    if found.fused is not None and here is not None:
        return LocalFolder("fused", name, digest, None, here, told)
    return LocalFolder("base", name, digest, None, model_folder(workspace, name), told)


def _lookup(workspace: Workspace, session: Session, row: tables.Fused) -> Path | None:
    """Return where a fused model's files are in the cache: its own, or the same bytes under another key."""
    same = select(tables.Fused).where(tables.Fused.digest == row.digest, tables.Fused.id != row.id)
    for each in (row, *session.scalars(same)):
        path = workspace.cache.lookup(Digest(each.key), each.manifest.value)
        if path is not None:
            return path
    return None


def adapter_folder(workspace: Workspace, reference: str, form: str = "mlx") -> Path:
    """Return a folder with an adapter's files.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        form: `mlx` for mlx-lm, `peft` for PEFT, vLLM and others.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: it is yanked, or has no such form.
    """
    chosen: Form | None = next((each for each in FORMS if each == form), None)
    if chosen is None:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMS)}")
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        assert adapter.manifest.files is not None
        assert adapter.renderings is not None
    with scratch_folder(workspace) as scratch:
        files = fetch_form(workspace, adapter, chosen, scratch / "adapter")
        return _kept(workspace, files, manifest_of(files), {})


def model_folder(workspace: Workspace, reference: str) -> Path:
    """Return a folder with a base model's files.

    A model that was added by reference is where it lies, unless mlx-lm needs keys that its `config.json` has not, or
    other files lie beside those on record.

    Raises:
        UnknownReferenceError: there is no such base.
        BlobCorruptError: a file is not what is recorded.
        OutOfSpaceError: there is no room for a copy.
    """
    with workspace.database.read() as session:
        base = resolve_base(session, reference)
        assert base.names is not None
        manifest = base_manifest(base)
    with scratch_folder(workspace) as scratch, proven_files(workspace, base, scratch) as files:
        completed = completed_config(files[CONFIG])
        if completed is None and base.location is not None and _holds_only(Path(base.location), manifest):
            return Path(base.location)
        own = {} if completed is None else {CONFIG: completed}
        entries = (
            FileEntry(entry.path, len(own[entry.path]), digest_bytes(own[entry.path]))
            if entry.path in own
            else entry
            for entry in manifest
        )
        return _kept(workspace, files, Manifest.of(entries), own)


def _kept(workspace: Workspace, files: dict[str, Path], manifest: Manifest, own: dict[str, bytes]) -> Path:
    """Return the entry of the cache with these files, made if it is not there; `own` has those that are written anew."""
    key = Digest(manifest.digest)
    if (path := workspace.cache.lookup(key, manifest)) is not None:
        return path
    require_rooms([Need(workspace.cache.root, [entry.size for entry in manifest])])
    with workspace.cache.build(key, 0) as folder:
        for entry in manifest:
            place = folder / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.path in own:
                place.write_bytes(own[entry.path])
            else:
                copy_file(files[entry.path], place, expected=entry.sha256)
        path = workspace.cache.publish(key, folder, manifest)
    # Who asks for an adapter has just asked for its base, and goes on with both.
    lately = time.time() - _LATELY
    spared = {entry.key for entry in workspace.cache.entries() if entry.last_used > lately}
    workspace.cache.evict(workspace.settings.cache_limit, {key, *spared}).execute()
    return path


def _holds_only(folder: Path, manifest: Manifest) -> bool:
    """Tell whether there is nothing beside a model's files that somebody might load as a part of it."""
    known = {entry.path for entry in manifest}
    there = (path for path in folder.rglob("*") if not path.is_dir())
    others = (path for path in there if path.relative_to(folder).as_posix() not in known)
    return all(path.name.startswith(".") or path.suffix.lower() in _HARMLESS for path in others)
