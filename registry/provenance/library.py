"""Recorded items: their files, the index of their tensors (computed again if it is lost), and digests computed on threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import selectinload

from fusery.storage.digest import CHUNK, Digest, digest_file, digest_pieces
from fusery.storage.errors import FuseryError, MissingFileError, StorageError
from fusery.storage.failures import os_failures

from .. import tables
from ..database import events
from ..database.engine import batches
from ..records.bases import fetch_files, locate_files
from ..workspace.workspace import Workspace
from .owners import RecordedItem
from .tensors import NUMBERS, View, exact_digest, named_digest, read_views, values

Item = TypeVar("Item")

CASTS = ("F32", "F16", "BF16")  # formats that recorded numbers can be converted to


class Hasher:
    """Computes digests on threads; `report` is called with the bytes that were read."""

    def __init__(self, report: Callable[[int], None] = lambda _: None) -> None:
        self._report, self._stopped = report, False
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 2), "identify")

    def tensors(self, views: Iterable[View]) -> dict[View, Digest]:
        """Return the digests of tensors; the largest are hashed first, so that all threads end together."""
        ordered = {view: view.path for view in sorted(views, key=lambda view: -view.size)}
        return self._run(ordered, lambda view: exact_digest(view, self._count))

    def files(self, paths: Iterable[Path]) -> dict[Path, Digest]:
        """Return the digests of whole files."""
        count = partial(self._count, CHUNK)
        return self._run({path: path for path in paths}, lambda path: digest_file(path, count)[0])

    def close(self) -> None:
        """Stop all threads."""
        self._stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, items: Mapping[Item, Path], digest: Callable[[Item], Digest]) -> dict[Item, Digest]:
        def work(item: Item, path: Path) -> Digest:
            with os_failures(f"read {path}", near=path):
                return digest(item)

        futures = {item: self._pool.submit(work, item, path) for item, path in items.items()}
        return {item: future.result() for item, future in futures.items()}

    def _count(self, count: int) -> None:
        if self._stopped:
            raise CancelledError
        self._report(count)


class Index:
    """The table of tensors; what cannot be written to it is kept in memory."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: dict[int, dict[str, str]] = {}
        self._writable = True

    def indexed(self, manifests: Collection[int]) -> set[int]:
        """Return which of these manifests are in the index."""
        tensor = tables.TensorRow
        indexed = self._kept.keys() & set(manifests)
        for some in batches(sorted(manifests)):
            query = select(tensor.manifest_id).where(tensor.manifest_id.in_(some)).distinct()
            indexed |= {row.manifest_id for row in self._rows(query)}
        return indexed

    def entries(self, manifest: int) -> dict[str, str]:
        """Return the digests of a manifest's tensors by their names."""
        tensor = tables.TensorRow
        query = select(tensor.name, tensor.digest).where(tensor.manifest_id == manifest)
        return {row.name: row.digest for row in self._rows(query)} | self._kept.get(manifest, {})

    def holders(self, digests: Iterable[str]) -> Counter[int]:
        """Return how many of these digests each manifest has."""
        tensor, wanted = tables.TensorRow, set(digests)
        count = func.count(tensor.digest.distinct()).label("number")
        holders: Counter[int] = Counter()
        for some in batches(sorted(wanted)):
            query = select(tensor.manifest_id, count).where(tensor.digest.in_(some))
            for row in self._rows(query.group_by(tensor.manifest_id)):
                holders[row.manifest_id] += row.number
        for manifest, entries in self._kept.items():
            holders[manifest] = len(set(entries.values()) & wanted)
        return +holders

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._workspace.database.read() as session:
            return session.execute(query).all()

    def keep(self, owner: RecordedItem, entries: Mapping[str, str]) -> None:
        """Record an item's tensors; in a read-only registry, keep them until this command ends."""
        try:
            if self._writable:
                self._write(owner, entries)
        except FuseryError:
            self._writable = False
        if not self._writable:
            self._kept[owner.manifest] = dict(entries)

    def _write(self, owner: RecordedItem, entries: Mapping[str, str]) -> None:
        tensor, manifest = tables.TensorRow, owner.manifest
        with self._workspace.database.write() as session:
            if session.get(tables.ManifestRow, manifest) is None:
                return  # it was collected meanwhile
            present = set(session.scalars(select(tensor.name).where(tensor.manifest_id == manifest)))
            session.add_all(
                tensor(manifest_id=manifest, name=name, digest=digest)
                for name, digest in entries.items()
                if name not in present
            )
            detail = {"name": owner.title, "digest": owner.digest, "tensors": len(entries)}
            events.record(session, "registry.indexed", "registry", "tensors", detail)


class Library:
    """Recorded items with their files; `missing` says why files are not available."""

    def __init__(self, workspace: Workspace, hasher: Hasher) -> None:
        self.index = Index(workspace)
        self.missing: dict[int, str] = {}
        self._workspace, self._hasher = workspace, hasher
        self._held = ExitStack()
        self._files: dict[int, dict[str, Path]] = {}
        self._views: dict[int, dict[str, View]] = {}

    def close(self) -> None:
        """Release all files."""
        self._held.close()

    @cached_property
    def _scratch(self) -> Path:
        return self._held.enter_context(self._workspace.scratch())

    def learn(self, owner: RecordedItem) -> None:
        """Put an item's tensors into the index, if its files are as recorded."""
        files = self._open(owner)
        if files is None:
            return
        weights = {path: file for path, file in files.items() if path.endswith(".safetensors")}
        try:
            digests = self._hasher.files(weights.values())
            tensors = self._hasher.tensors(self._tensors(owner).values())
        except (FuseryError, OSError) as error:
            self.missing[owner.manifest] = str(error)
            return
        recorded = recorded_files(self._workspace, owner.manifest)
        if any(recorded.get(path) != digests[file] for path, file in weights.items()):
            self.missing[owner.manifest] = "its files are damaged"
        else:
            self.index.keep(owner, {view.name: str(digest) for view, digest in tensors.items()})

    def cast(self, owner: RecordedItem, name: str, dtype: str) -> Digest | None:
        """Return the digest of a tensor converted to another dtype; None if that cannot be computed."""
        if dtype not in CASTS or self._open(owner) is None:
            return None
        try:
            view = self._tensors(owner).get(name)
            return _converted_digest(view, dtype) if view is not None and view.dtype in NUMBERS else None
        except (FuseryError, OSError):
            return None

    def _tensors(self, owner: RecordedItem) -> dict[str, View]:
        if owner.manifest not in self._views:
            views: dict[str, View] = {}
            for path, file in sorted(self._files[owner.manifest].items()):
                if path.endswith(".safetensors"):
                    views = {view.name: view for view in read_views(file)} | views
            self._views[owner.manifest] = views
        return self._views[owner.manifest]

    def _open(self, owner: RecordedItem) -> Mapping[str, Path] | None:
        if owner.manifest not in self._files and owner.manifest not in self.missing:
            try:
                self._files[owner.manifest] = self._locate(owner)
            except (StorageError, OSError) as error:
                self.missing[owner.manifest] = str(error)
        return None if owner.manifest in self.missing else self._files[owner.manifest]

    def _locate(self, owner: RecordedItem) -> dict[str, Path]:
        listed, base_model = selectinload(tables.ManifestRow.files), tables.BaseModelRow
        with self._workspace.database.read() as session:
            if owner.kind == "base":
                loading = (selectinload(base_model.names), selectinload(base_model.manifest).options(listed))
                base = session.get_one(base_model, owner.id, options=loading)
            files = session.get_one(tables.ManifestRow, owner.manifest, options=[listed]).files
        if owner.kind == "base":
            located = locate_files(self._workspace, base, self._scratch)
            return {path: file.resolve() for path, file in located.items()}
        if owner.kind == "fused":
            folder = self._held.enter_context(self._workspace.cache.using(owner.facts["key"]))
            cached = {file.path: (folder / file.path, file.size) for file in files} if folder else {}
            sizes = {path: path.stat().st_size for path, _ in cached.values() if path.is_file()}
            if cached and all(sizes.get(path) == size for path, size in cached.values()):
                return {name: path for name, (path, _) in cached.items()}
        if any(file.blob is None for file in files):
            raise MissingFileError("its files are no longer in the cache")
        return fetch_files(self._workspace, files, self._scratch)


def _converted_digest(view: View, dtype: str) -> Digest:
    import numpy as np

    from ..engine.arithmetic import FORMATS, encode

    with np.errstate(over="ignore", invalid="ignore"):
        blocks = (encode(block.astype(np.float32), FORMATS[dtype]).tobytes() for block in values(view))
        return named_digest(dtype, view.shape, digest_pieces(blocks))


def recorded_files(workspace: Workspace, manifest: int) -> dict[str, str]:
    """Return the digests of a manifest's files, by path."""
    files = tables.ManifestFileRow
    with workspace.database.read() as session:
        query = select(files.path, files.sha256).where(files.manifest_id == manifest)
        return {row.path: row.sha256 for row in session.execute(query)}
