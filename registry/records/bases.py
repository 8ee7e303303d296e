"""A base model as it is on record: its files, their generations in the store, its architecture, and licences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fusery.storage.copying import Progress
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, MissingFileError, StorageError
from fusery.storage.jsonfile import read_config
from fusery.storage.manifest import Manifest
from fusery.storage.verified_files import Watch, require_digests, watched

from .. import tables
from ..models.architecture import Architecture, Weight
from ..runtime.mlx_keys import mlx_keys, written_config
from ..workspace.workspace import Workspace
from .references import resolve_base

_SHAPE = ("config", "weights", "parameters", "dtype", "quantization", "written_by_mlx")


def recorded_architecture(base: tables.BaseModelRow) -> Architecture:
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
    base: tables.BaseModelRow,
    scratch: Path,
    *,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Return where a base's files can be read on this machine; from a store that is not local they are fetched."""
    wanted = [file for file in base.manifest.files if only is None or file.path in only]
    if base.location is not None:
        return {file.path: _referenced(Path(base.location), base, file) for file in wanted}
    return fetch_files(workspace, wanted, scratch, progress=progress)


def fetch_files(
    workspace: Workspace,
    wanted: Sequence[tables.ManifestFileRow],
    scratch: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Return where files of the store can be read; from a store that is not local they are fetched."""
    generations = blob_generations(workspace, [file.sha256 for file in wanted])
    files = {}
    for file in wanted:
        digest, generation = Digest(file.sha256), generations[file.sha256]
        local = workspace.store.local_path(digest, generation=generation)
        if local is None:
            local = scratch / digest
            if not local.exists():
                workspace.store.fetch(digest, local, generation=generation, progress=progress)
        files[file.path] = local
    return files


def all_names(base: tables.BaseModelRow) -> frozenset[str]:
    """Return every name, hub id and folder that a base is known by."""
    names = {name.name for name in base.names}
    names |= {revision.source.partition(":")[2] for revision in base.revisions}
    declared = base.config.get("_name_or_path")
    return frozenset(names | ({declared} if isinstance(declared, str) else set())) - {""}


def blob_generations(workspace: Workspace, digests: Sequence[str]) -> dict[str, int]:
    """Return the generation under which each of these blobs is stored; 0, the first, for one that is not on record."""
    with workspace.database.read() as session:
        blob = tables.BlobRow
        query = select(blob.digest, blob.generation).where(blob.digest.in_(digests))
        return dict.fromkeys(digests, 0) | {row.digest: row.generation for row in session.execute(query)}


def _referenced(folder: Path, base: tables.BaseModelRow, file: tables.ManifestFileRow) -> Path:
    path, name = folder / file.path, base.name
    try:
        size = path.stat().st_size
    except OSError as error:
        problem = f"the base {name} is kept by reference, and {path} is gone"
        hint = f"put it back, or run: fusery base add SOURCE --name {name}"
        raise MissingFileError(problem, hint=hint) from error
    if size != file.size:
        problem = f"{path} of the base {name} has changed since it was added: {size} bytes, was {file.size}"
        hint = "a changed model is another base: fusery base add SOURCE --name OTHER_NAME"
        raise BlobCorruptError(problem, hint=hint)
    return path


@contextmanager
def proven_files(
    workspace: Workspace, base: tables.BaseModelRow, scratch: Path, *, rehash_all: bool = False
) -> Iterator[dict[str, Path]]:
    """Yield where a base's files can be read, and refuse those that change before the block ends; `rehash_all` hashes all."""
    files, manifest = locate_files(workspace, base, scratch), base.manifest.value
    with watched(files, manifest) as watch:
        left = manifest if rehash_all else unproven(workspace, manifest, files)
        require_digests(files, left)
        record_verified(workspace, watch, left)
        yield files


def lay_out(files: Mapping[str, Path], folder: Path) -> None:
    """Make a folder of links to a model's files, for mlx-lm to load, with a `config.json` that has all keys it needs."""
    for path, real in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        completed = completed_config(real) if path == "config.json" else None
        if completed is None:
            place.symlink_to(real.absolute())
        else:
            place.write_bytes(completed)


def completed_config(file: Path) -> bytes | None:
    """Return a `config.json` with the keys beside its own that mlx-lm needs, None where it needs none."""
    config = read_config(file)
    return json.dumps(written_config(config), indent=2).encode() + b"\n" if mlx_keys(config) else None


def unproven(workspace: Workspace, manifest: Manifest, files: dict[str, Path]) -> Manifest:
    """Return the files that were not found to be right of late; to be asked for when they are watched already."""
    verified = workspace.verified_files
    return Manifest.of(entry for entry in manifest if not verified.has(files[entry.path], entry.sha256))


def record_verified(workspace: Workspace, watch: Watch, proven: Manifest) -> None:
    """Note which weights were read from beginning to end since they are watched; the rest is hashed in no time."""
    for entry in proven:
        if entry.path.endswith(".safetensors"):
            workspace.verified_files.record(watch, entry.path, entry.sha256)


@contextmanager
def base_folder(workspace: Workspace, name: str) -> Iterator[Path]:
    """Yield a folder of links to a base model's files, as mlx-lm takes it, for as long as it is needed."""
    with workspace.scratch() as folder:
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
    """A base of the registry, as a model to train; `folder` makes a folder with its files while they are read."""

    name: str
    names: frozenset[str]
    folder: Callable[[], AbstractContextManager[Path]]


_TAGS = ("license", "licence")
_FILE = re.compile(r"LICEN[CS]E(\.(txt|md))?", re.IGNORECASE)
_FRONT = re.compile(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", re.DOTALL)
_LINE = re.compile(r"^license:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9.+-]{0,63})[\"']?[ \t]*(#.*)?$", re.MULTILINE)
_LARGEST = 1 << 20
_BEGINNING = 4096

_TEXTS = {
    "apache-2.0": r"Apache License\s+Version 2\.0, January 2004",
    "mit": r"(\A\s*(The )?MIT License\b|Permission is hereby granted, free of charge, to any person obtaining a copy)",
    "bsd-3-clause": r"\A\s*BSD 3-Clause License",
    "llama2": r"LLAMA 2 COMMUNITY LICENSE AGREEMENT",
    "llama3": r"META LLAMA 3 COMMUNITY LICENSE AGREEMENT",
    **{f"llama{n}": rf"LLAMA {re.escape(n)} COMMUNITY LICENSE AGREEMENT" for n in ("3.1", "3.2", "3.3", "4")},
    "gemma": r"\A\s*Gemma Terms of Use",
    "cc-by-4.0": r"\A\s*(Creative Commons )?Attribution 4\.0 International",
    "cc-by-sa-4.0": r"\A\s*(Creative Commons )?Attribution-ShareAlike 4\.0 International",
    "cc-by-nc-4.0": r"\A\s*(Creative Commons )?Attribution-NonCommercial 4\.0 International",
}
"""Identifiers as the hub has them (https://huggingface.co/docs/hub/repositories-licenses), and how the text begins."""


def licence_of_text(text: str) -> str | None:
    """Return the identifier of a well-known licence by the beginning of its text."""
    start = text[:_BEGINNING]
    return next((name for name, pattern in _TEXTS.items() if re.search(pattern, start, re.IGNORECASE)), None)


def licence_of_readme(text: str) -> str | None:
    """Return what the front matter of a README says under `license`."""
    front = _FRONT.match(text)
    licence_match = _LINE.search(front[1]) if front else None
    return licence_match[1] if licence_match else None


def base_licence(workspace: Workspace, base: tables.BaseModelRow) -> str | None:
    """Return a base's licence; None without a declared one, or if its files cannot be read."""
    declared = base.config.get("license")
    if base.location is not None and not (isinstance(declared, str) and declared):
        declared = licence_of_readme(_local(Path(base.location) / "README.md"))
    if isinstance(declared, str) and declared:
        return declared
    for file in base.manifest.files:
        if not _FILE.fullmatch(file.path) or file.size > _LARGEST:
            continue
        if base.location is not None:
            return licence_of_text(_local(Path(base.location) / file.path))
        generation = blob_generations(workspace, [file.sha256])[file.sha256]
        with suppress(StorageError):  # as in `_local`
            data = workspace.store.read_bytes(Digest(file.sha256), generation=generation, limit=_LARGEST)
            return licence_of_text(data.decode(errors="replace"))
        return None
    return None


def adapter_licence(tags: Mapping[str, str]) -> str | None:
    """Return what an adapter's tags say of its licence."""
    return next((tags[name] for name in _TAGS if tags.get(name)), None)


def _local(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode(errors="replace")
    except OSError:  # a card says what is known, and is no reason to fail
        return ""
