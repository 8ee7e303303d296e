"""The files of a base where they lie on this machine, found to be what is recorded, for as long as they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import Manifest
from fusery.storage.watching import require_digests, watched

from ..server.mlx_keys import mlx_keys, written_config
from .bases import locate_files
from .references import resolve_base
from .scratch import scratch_folder

if TYPE_CHECKING:
    from fusery.storage.watching import Watch

    from .. import tables
    from ..workspace import Workspace


@contextmanager
def proven_files(
    workspace: Workspace, base: tables.BaseModel, scratch: Path, *, anew: bool = False
) -> Iterator[dict[str, Path]]:
    """Yield where a base's files can be read; they are refused if they change before the block ends.

    Args:
        workspace: the registry's parts.
        base: the base, with its manifest loaded.
        scratch: a folder that lives as long as the files are needed.
        anew: hash also what was hashed today and is untouched since.

    Raises:
        BlobCorruptError: a file is not what is recorded.
        BlobMissingError, MissingFileError: as `locate_files` has it.
        StorageError: one was written to meanwhile.
    """
    files, manifest = locate_files(workspace, base, scratch), base_manifest(base)
    with watched(files, manifest, near=workspace.vouchers.root) as watch:
        left = manifest if anew else unproven(workspace, manifest, files)
        require_digests(files, left)
        vouch(workspace, watch, left)
        yield files


def lay_out(files: Mapping[str, Path], folder: Path) -> None:
    """Make a folder of links to a model's files under their own names, for mlx-lm to load.

    Where its `config.json` lacks keys that mlx-lm needs, the folder gets one that has them.
    """
    for path, real in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        completed = completed_config(real) if path == "config.json" else None
        if completed is None:
            place.symlink_to(real.absolute())
        else:
            place.write_bytes(completed)


def completed_config(file: Path) -> bytes | None:
    """Return a `config.json` with the keys beside its own that mlx-lm needs, None where it needs none.

    Raises:
        FormatError: it is not a JSON object.
        MissingFileError: it cannot be read.
    """
    config = read_object(file)
    return json.dumps(written_config(config), indent=2).encode() + b"\n" if mlx_keys(config) else None


def base_manifest(base: tables.BaseModel) -> Manifest:
    """Return the recorded files of a base."""
    return base.manifest.value


def unproven(workspace: Workspace, manifest: Manifest, files: dict[str, Path]) -> Manifest:
    """Return the files that were not found to be right of late; to be asked for when they are watched already."""
    vouchers = workspace.vouchers
    return Manifest.of(entry for entry in manifest if not vouchers.hold(files[entry.path], entry.sha256))


def vouch(workspace: Workspace, watch: Watch, proven: Manifest) -> None:
    """Note which weights were read from beginning to end since they are watched; the rest is hashed in no time."""
    for entry in proven:
        if entry.path.endswith(".safetensors"):
            workspace.vouchers.note(watch, entry.path, entry.sha256)


@contextmanager
def base_folder(workspace: Workspace, name: str) -> Iterator[Path]:
    """Yield a folder of links to a base model's files, as mlx-lm takes it, for as long as it is needed.

    Raises:
        UnknownReferenceError: there is no such base.
        BlobCorruptError: a file is not what is recorded.
        StorageError: one was written to meanwhile.
    """
    with scratch_folder(workspace) as folder:
        scratch, model = folder / "blobs", folder / "model"
        scratch.mkdir()
        with workspace.database.read() as session:
            base = resolve_base(session, name)
            assert base.names is not None
            assert base.manifest.files is not None
        with proven_files(workspace, base, scratch) as files:
            lay_out(files, model)
            yield model


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base of the registry, as a model to train.

    Attributes:
        name: its first name, which the adapter's configuration gives as its model.
        names: all its names.
        folder: makes a folder with its files for as long as they are read.
    """

    name: str
    names: frozenset[str]
    folder: Callable[[], AbstractContextManager[Path]]
