"""A base model as it is on record: its files, their generations in the store, and its architecture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, MissingFileError

from .. import tables
from ..models.architecture import Architecture, Weight

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace


_SHAPE = ("config", "weights", "parameters", "dtype", "quantization", "written_by_mlx")


def recorded_architecture(base: tables.BaseModel) -> Architecture:
    """Return a base's architecture from its record, without its files."""
    return architecture_of({name: getattr(base, name) for name in _SHAPE})


def architecture_of(values: Mapping[str, Any]) -> Architecture:
    """Return a base's architecture from the columns of its record."""
    weights = {
        module: Weight(module, tuple(shape), dtype, bits)
        for module, (shape, dtype, bits) in values["weights"].items()
    }
    return Architecture(weights=weights, **{name: values[name] for name in _SHAPE if name != "weights"})


def locate_files(
    workspace: Workspace,
    base: tables.BaseModel,
    scratch: Path,
    *,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Return where a base's files can be read on this machine; from a store that is not local they are fetched.

    Args:
        workspace: the registry's parts.
        base: the base, with its manifest loaded.
        scratch: a folder that lives as long as the files are needed.
        only: names of the files that are needed; None for all.
        progress: called with the bytes of each piece that is fetched.

    Raises:
        BlobMissingError: the store lacks a file.
        BlobCorruptError: a file of a referenced base has another size than when it was added.
        MissingFileError: the folder of a referenced base is gone.
    """
    wanted = [file for file in base.manifest.files if only is None or file.path in only]
    if base.location is not None:
        return {file.path: _referenced(Path(base.location), base, file) for file in wanted}
    generations = blob_generations(workspace, [file.sha256 for file in wanted])
    found = {}
    for file in wanted:
        digest, generation = Digest(file.sha256), generations[file.sha256]
        local = workspace.store.local_path(digest, generation=generation)
        if local is None:
            local = scratch / digest
            if not local.exists():
                workspace.store.fetch(digest, local, generation=generation, progress=progress)
        found[file.path] = local
    return found


class Generations(dict[str, int]):
    """Blobs' generations by digest; that of a blob which is not on record is the first, 0."""

    def __missing__(self, digest: str) -> int:
        return 0


def blob_generations(workspace: Workspace, digests: Sequence[str]) -> Generations:
    """Return the generation under which each of these blobs is stored."""
    with workspace.database.read() as session:
        query = select(tables.Blob.digest, tables.Blob.generation).where(tables.Blob.digest.in_(digests))
        return Generations({row.digest: row.generation for row in session.execute(query)})


def _referenced(folder: Path, base: tables.BaseModel, file: tables.ManifestFile) -> Path:
    path = folder / file.path
    name = base.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MissingFileError(
            f"the base {name} is kept by reference, and {path} is gone",
            hint=f"put it back, or run: fusery base add SOURCE --name {name}",
        ) from error
    if size != file.size:
        raise BlobCorruptError(
            f"{path} of the base {name} has changed since it was added: {size} bytes, was {file.size}",
            hint="a changed model is another base: fusery base add SOURCE --name OTHER_NAME",
        )
    return path
