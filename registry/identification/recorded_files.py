"""The files of recorded items on this machine: in the store, in a referenced folder, or in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import selectinload

from fusery.storage.digest import Digest
from fusery.storage.errors import StorageError

from .. import tables
from .owners import Owner

if TYPE_CHECKING:
    from ..workspace import Workspace


class NotHereError(Exception):
    """The files cannot be had at the moment; the text says why."""


@contextmanager
def open_files(workspace: Workspace, owner: Owner, scratch: Path) -> Iterator[dict[str, Path]]:
    """Yield the files of a base, an adapter or a fused model, by their paths, for as long as they are read.

    Args:
        workspace: the registry's parts.
        owner: which.
        scratch: a folder for what has to be fetched.

    Raises:
        NotHereError: an evicted fused model, a base whose folder is gone, a store that does not answer.
    """
    manifest = _manifest(workspace, owner.manifest)
    sizes = {file.path: file.size for file in manifest.files}
    try:
        if owner.kind == "base":
            yield _base_files(workspace, owner, scratch)
            return
        if owner.kind == "fused":
            with workspace.cache.using(owner.facts["key"]) as folder:
                if folder is not None and _complete(folder, sizes):
                    yield {path: folder / path for path in sizes}
                    return
        if any(file.blob is None for file in manifest.files):
            raise NotHereError("its files are no longer in the cache")
        yield _stored(workspace, manifest, scratch)
    except (StorageError, OSError) as error:
        raise NotHereError(getattr(error, "message", None) or str(error)) from error


def configuration(files: Mapping[str, Path]) -> dict[str, Any] | None:
    """Return the model's `config.json`, None if there is none that can be read."""
    from fusery.storage.jsonfile import read_object

    try:
        return read_object(files["config.json"])
    except (KeyError, StorageError):
        return None


def _complete(folder: Path, sizes: Mapping[str, int]) -> bool:
    try:
        return all((folder / path).stat().st_size == size for path, size in sizes.items())
    except OSError:
        return False


def _manifest(workspace: Workspace, number: int) -> tables.Manifest:
    with workspace.database.read() as session:
        return session.get_one(tables.Manifest, number, options=[selectinload(tables.Manifest.files)])


def _base_files(workspace: Workspace, owner: Owner, scratch: Path) -> dict[str, Path]:
    from ..records.bases import locate_files

    with workspace.database.read() as session:
        base = session.get_one(
            tables.BaseModel,
            owner.id,
            options=[
                selectinload(tables.BaseModel.names),
                selectinload(tables.BaseModel.manifest).selectinload(tables.Manifest.files),
            ],
        )
    return {path: file.resolve() for path, file in locate_files(workspace, base, scratch).items()}


def _stored(workspace: Workspace, manifest: tables.Manifest, scratch: Path) -> dict[str, Path]:
    from ..records.bases import blob_generations

    generations = blob_generations(workspace, [file.sha256 for file in manifest.files])
    found = {}
    for file in manifest.files:
        digest, generation = Digest(file.sha256), generations[file.sha256]
        local = workspace.store.local_path(digest, generation=generation)
        if local is None:
            local = scratch / digest
            if not local.exists():
                workspace.store.fetch(digest, local, generation=generation)
        found[file.path] = local
    return found
