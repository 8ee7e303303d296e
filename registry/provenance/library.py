"""Recorded items: their files, the index of their tensors, and digests that are computed in the background.

The index is derived: what it lacks is computed from the files again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import selectinload

from fusery.storage.digest import CHUNK, Digest, digest_file
from fusery.storage.errors import FuseryError, StorageError
from fusery.storage.failures import os_failures

from .. import tables
from ..database import events
from ..database.engine import batches
from .owners import RecordedItem
from .views import NUMBERS, View, exact_digest, named_digest, read_views, values

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

Result = TypeVar("Result")


class Hasher:
    """Computes digests on threads; `report` is called with the bytes that were read."""

    def __init__(self, report: Callable[[int], None] | None = None) -> None:
        self._report = report or (lambda _: None)
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 2), "identify")
        self._stopped = False

    def tensors(self, views: Iterable[View]) -> dict[View, Digest]:
        """Return the digests of tensors; the largest are hashed first, so that all threads end together."""
        ordered = sorted(views, key=lambda view: -view.size)
        futures = {
            view: self._pool.submit(_guarded, view.path, exact_digest, view, self._count) for view in ordered
        }
        return {view: future.result() for view, future in futures.items()}

    def files(self, paths: Iterable[Path]) -> dict[Path, Digest]:
        """Return the digests of whole files."""
        futures = {
            path: self._pool.submit(_guarded, path, digest_file, path, lambda: self._count(CHUNK))
            for path in paths
        }
        return {path: future.result()[0] for path, future in futures.items()}

    def close(self) -> None:
        """Stop all threads."""
        self._stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _count(self, count: int) -> None:
        if self._stopped:
            raise CancelledError
        self._report(count)


def _guarded(path: Path, work: Callable[..., Result], *arguments: object) -> Result:
    with os_failures(f"read {path}", near=path):
        return work(*arguments)


class Index:
    """The table of tensors; what cannot be written to it is kept in memory."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: dict[int, dict[str, str]] = {}
        self._writable = True

    def known(self, manifests: Collection[int]) -> set[int]:
        """Return which of these manifests are in the index."""
        tensor = tables.TensorRow
        found = {number for number in manifests if number in self._kept}
        for some in batches(sorted(manifests)):
            query = select(tensor.manifest_id).where(tensor.manifest_id.in_(some)).distinct()
            found |= {row.manifest_id for row in self._rows(query)}
        return found

    def entries(self, manifest: int) -> dict[str, str]:
        """Return the digests of a manifest's tensors by their names."""
        tensor = tables.TensorRow
        query = select(tensor.name, tensor.digest).where(tensor.manifest_id == manifest)
        return {row.name: row.digest for row in self._rows(query)} | self._kept.get(manifest, {})

    def holders(self, digests: Iterable[str]) -> Counter[int]:
        """Return how many of these digests each manifest has."""
        tensor, wanted = tables.TensorRow, set(digests)
        found: Counter[int] = Counter()
        for some in batches(sorted(wanted)):
            count = func.count(tensor.digest.distinct()).label("number")
            query = select(tensor.manifest_id, count).where(tensor.digest.in_(some))
            for row in self._rows(query.group_by(tensor.manifest_id)):
                found[row.manifest_id] += row.number
        for manifest, entries in self._kept.items():
            found[manifest] = len(set(entries.values()) & wanted)
        return +found

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._workspace.database.read() as session:
            return session.execute(query).all()

    def keep(self, owner: RecordedItem, entries: Mapping[str, str]) -> None:
        """Record an item's tensors; in a read-only registry, keep them until this command ends."""
        if self._writable:
            try:
                self._write(owner, entries)
            except FuseryError:
                self._writable = False
        if not self._writable:
            self._kept[owner.manifest] = dict(entries)

    def _write(self, owner: RecordedItem, entries: Mapping[str, str]) -> None:
        tensor = tables.TensorRow
        with self._workspace.database.write() as session:
            if session.get(tables.ManifestRow, owner.manifest) is None:
                return  # it was collected meanwhile
            present = set(session.scalars(select(tensor.name).where(tensor.manifest_id == owner.manifest)))
            session.add_all(
                tensor(manifest_id=owner.manifest, name=name, digest=digest)
                for name, digest in entries.items()
                if name not in present
            )
            detail = {"name": owner.title, "digest": owner.digest, "tensors": len(entries)}
            events.record(session, "registry.indexed", "registry", "tensors", detail)


CASTS = ("F32", "F16", "BF16")
"""Formats that recorded numbers can be converted to."""


class NotHereError(Exception):
    """The files are not available; the text says why."""


class Library:
    """Recorded items with their files; `scratch` returns a folder for fetched ones."""

    def __init__(
        self,
        workspace: Workspace,
        hasher: Hasher,
        scratch: Callable[[], Path],
        say: Callable[[str], None],
    ) -> None:
        self.index = Index(workspace)
        self.missing: dict[int, str] = {}
        self.say = say
        self._workspace, self._hasher, self._scratch = workspace, hasher, scratch
        self._held = ExitStack()
        self._files: dict[int, dict[str, Path]] = {}
        self._views: dict[int, dict[str, View]] = {}

    def close(self) -> None:
        """Release all files."""
        self._held.close()

    def _open(self, owner: RecordedItem) -> Mapping[str, Path] | None:
        """Return the files of an item by path; None if they are not available: `missing` then says why."""
        if owner.manifest not in self._files and owner.manifest not in self.missing:
            try:
                held = open_files(self._workspace, owner, self._scratch())
                self._files[owner.manifest] = self._held.enter_context(held)
            except NotHereError as error:
                self._give_up(owner, str(error), quiet=True)
        return self._files.get(owner.manifest)

    def learn(self, owner: RecordedItem) -> None:
        """Put an item's tensors into the index, if its files are as recorded."""
        files = self._open(owner)
        if files is None:
            return
        weights = {path: file for path, file in files.items() if path.endswith(".safetensors")}
        try:
            digests = self._hasher.files(weights.values())
            tensors = self._hasher.tensors(self._tensors(owner).values())
            recorded = recorded_files(self._workspace, owner.manifest)
            if any(recorded.get(path) != digests[file] for path, file in weights.items()):
                self._give_up(owner, "its files are damaged")
                return
        except (FuseryError, OSError) as error:
            self._give_up(owner, str(error))
            return
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
            found: dict[str, View] = {}
            for path, file in sorted(self._files[owner.manifest].items()):
                if path.endswith(".safetensors"):
                    found = {view.name: view for view in read_views(file)} | found
            self._views[owner.manifest] = found
        return self._views[owner.manifest]

    def _give_up(self, owner: RecordedItem, why: str, *, quiet: bool = False) -> None:
        self._files.pop(owner.manifest, None)
        self.missing[owner.manifest] = why
        if not quiet:
            self.say(f"{owner.title} cannot be compared with: {why}")


def _converted_digest(view: View, dtype: str) -> Digest:
    """Return the digest of a tensor's numbers in another format."""
    import numpy as np

    from ..engine.arithmetic import FORMATS, encode

    running = hashlib.sha256()
    with np.errstate(over="ignore", invalid="ignore"):
        for block in values(view):
            running.update(encode(block.astype(np.float32), FORMATS[dtype]).tobytes())
    return named_digest(dtype, view.shape, running.hexdigest())


def recorded_files(workspace: Workspace, manifest: int) -> dict[str, str]:
    """Return the digests of a manifest's files, by path."""
    files = tables.ManifestFileRow
    with workspace.database.read() as session:
        query = select(files.path, files.sha256).where(files.manifest_id == manifest)
        return {row.path: row.sha256 for row in session.execute(query)}


@contextmanager
def open_files(workspace: Workspace, owner: RecordedItem, scratch: Path) -> Iterator[dict[str, Path]]:
    """Yield the files of a base, an adapter or a fused model by path; raise `NotHereError` if they are not available."""
    from ..records.bases import blob_generations, locate_files

    loading = selectinload(tables.ManifestRow.files)
    with workspace.database.read() as session:
        manifest = session.get_one(tables.ManifestRow, owner.manifest, options=[loading])
    try:
        if owner.kind == "base":
            base_model = tables.BaseModelRow
            options = [
                selectinload(base_model.names),
                selectinload(base_model.manifest).selectinload(tables.ManifestRow.files),
            ]
            with workspace.database.read() as session:
                base = session.get_one(base_model, owner.id, options=options)
            yield {path: file.resolve() for path, file in locate_files(workspace, base, scratch).items()}
            return
        if owner.kind == "fused":
            with workspace.cache.using(owner.facts["key"]) as folder:
                if folder is not None and all(
                    (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.size
                    for file in manifest.files
                ):
                    yield {file.path: folder / file.path for file in manifest.files}
                    return
        if any(file.blob is None for file in manifest.files):
            raise NotHereError("its files are no longer in the cache")
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
        yield found
    except (StorageError, OSError) as error:
        raise NotHereError(getattr(error, "message", None) or str(error)) from error
