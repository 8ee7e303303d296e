"""Repair missing or damaged bytes from a copy or a recipe, and log each repair; damaged blobs are quarantined."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import FuseryError, MissingFileError, StorageError
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import Reporter

from .. import tables
from ..database import events
from ..database.leases import reading
from ..records.bundles import is_remote
from ..workspace.workspace import Workspace
from .report import Damage, Problem, Repair, Report

_MOST_FILES = 1_000_000


@dataclass(frozen=True, slots=True)
class GoodCopy:
    """A good copy: the file, its origin, and its generation if the store has it already."""

    path: Path
    source: str
    generation: int | None = None


def has_bytes(path: Path, digest: str, size: int) -> bool:
    """Return whether a file has these bytes."""
    try:
        return path.is_file() and path.stat().st_size == size and digest_file(path)[0] == digest
    except (OSError, StorageError):
        return False


def repair_all(
    workspace: Workspace, report: Report, folders: Sequence[Path], say: Callable[[str], None]
) -> None:
    """Repair problems if possible, and move those to `repaired`."""
    with workspace.cache.scratch() as scratch:
        repairer = _Repairer(workspace, folders, scratch, say)
        # Blobs first: fused models are made from them.
        ordered = sorted(report.problems, key=lambda problem: _is_cached(problem.damage))
        report.problems = []
        for problem in ordered:
            try:
                outcome = repairer.repair(problem)
            except FuseryError as error:
                outcome = replace(problem, message=f"{problem.message}; not repaired: {error.message}")
            if isinstance(outcome, Repair):
                say(f"repaired {problem.subject} from {outcome.source}")
                report.repaired.append(outcome)
            else:
                report.problems.append(outcome)


def _is_cached(damage: Damage | None) -> bool:
    return damage is not None and damage.state == "cached"


class _Repairer:
    """Repairs problems; the store and the user's folders are listed once, at the first search for a copy."""

    def __init__(
        self, workspace: Workspace, folders: Sequence[Path], scratch: Path, say: Callable[[str], None]
    ) -> None:
        self._workspace, self._folders, self._scratch, self._say = workspace, folders, scratch, say
        self._remade: dict[str, str | None] = {}
        self._failed: dict[str, str] = {}
        for folder in folders:
            if not folder.is_dir():
                raise MissingFileError(f"folder not found: {folder}", hint="give a folder to --from")

    @cached_property
    def _generations(self) -> Mapping[str, set[int]]:
        generations: dict[str, set[int]] = defaultdict(set)
        for blob in self._workspace.store.blobs():
            generations[blob.digest].add(blob.generation)
        return generations

    @cached_property
    def _by_size(self) -> Mapping[int, list[Path]]:
        """The regular files of the user's folders; links are not followed."""
        paths_by_size: dict[int, list[Path]] = defaultdict(list)
        walks = itertools.chain.from_iterable(map(os.walk, self._folders))
        paths = (Path(root) / name for root, _, names in walks for name in names)
        for path in itertools.islice(paths, _MOST_FILES):
            if not path.is_symlink() and path.is_file():
                paths_by_size[path.stat().st_size].append(path)
        return paths_by_size

    def _find(self, damage: Damage) -> GoodCopy | None:
        recorded = {damage.generation} if damage.state == "ready" else set()
        for generation in sorted(self._generations.get(damage.digest, set()) - recorded, reverse=True):
            place = self._scratch / f"{damage.digest}.{generation}"
            try:
                self._workspace.store.fetch(damage.digest, place, generation=generation)
            except StorageError:
                continue
            return GoodCopy(place, f"generation {generation} in the store", generation)
        # Files on this machine that once had these bytes: fused models, bases by reference, bundles.
        files, places = tables.ManifestFileRow, list[tuple[Path, str]]()
        fused, base, bundle = tables.FusedRow, tables.BaseModelRow, tables.BundleRow
        with self._workspace.database.read() as session:
            for row in (fused, base, bundle):
                query = select(row, files.path).join(files, files.manifest_id == row.manifest_id)
                for owner, name in session.execute(query.where(files.sha256 == damage.digest)):
                    if isinstance(owner, fused):
                        cached = self._workspace.cache.entry(Digest(owner.key)) / name
                        places.append((cached, f"the fused model {owner.key[:12]} in the cache"))
                        continue
                    where = getattr(owner, "location" if isinstance(owner, base) else "path")
                    if where is not None and not (isinstance(owner, bundle) and is_remote(session, owner)):
                        places.append((Path(where) / name, str(Path(where) / name)))
        places += ((path, str(path)) for path in self._by_size.get(damage.size, ()))
        for path, source in places:
            if has_bytes(path, damage.digest, damage.size):
                return GoodCopy(path.resolve(), source)  # files in a hub's cache are links to blobs
        return None

    def repair(self, problem: Problem) -> Repair | Problem:
        if problem.damage is None:
            return problem
        if _is_cached(problem.damage):
            return self._repair_fused(problem, problem.damage)
        # The collector keeps off: a blob that something refers to is safe, but a row may say otherwise just now.
        with reading(self._workspace.database, [problem.damage.digest], self._workspace.owner()):
            return self._repair_blob(problem, problem.damage)

    def _repair_blob(self, problem: Problem, damage: Damage) -> Repair | Problem:
        if problem.code == "blob_size_differs":  # the bytes match the manifest, and the row does not
            sizes = {"size": damage.size, "recorded_size": damage.recorded_size}
            self._record("blob.repaired", damage, sizes, generation=damage.generation)
            return Repair.extending(problem, source="the blob's own bytes")
        copy = self._find(damage) or self._rebuilt(damage)
        if copy is None:
            name = self._workspace.store.quarantine(damage.digest, generation=damage.generation)
            if name is None:
                return problem
            self._record("blob.quarantined", damage, {"moved_to": name})
            return replace(problem, message=f"{problem.message}; moved to {name}; no copy found")
        generation = self._put(damage, copy)
        names = (blob.name for blob in self._workspace.store.quarantined())
        quarantined = max((name for name in names if damage.digest in name), default=None)
        detail = {"source": copy.source, "generation": generation, "moved_to": quarantined}
        self._record("blob.repaired", damage, detail, generation=generation)
        return Repair.extending(problem, source=copy.source, quarantined=quarantined)

    def _rebuilt(self, damage: Damage) -> GoodCopy | None:
        """Return the rebuilt file of a published fused model; None for other blobs."""
        from ..fusion.fuse import remake

        files, fused = tables.ManifestFileRow, tables.FusedRow
        with self._workspace.database.read() as session:
            query = select(fused.key).join(files, files.manifest_id == fused.manifest_id)
            keys = list(session.scalars(query.where(files.blob == damage.digest)))
        for key in keys:
            try:
                remake(self._workspace, Digest(key), reporter=Reporter(self._say))
            except FuseryError as error:
                self._say(f"cannot rebuild {key[:12]}: {error.message}")
            else:
                if (copy := self._find(damage)) is not None:
                    return replace(copy, source=f"the recipe of {key[:12]}")
        return None

    def _put(self, damage: Damage, copy: GoodCopy) -> int:
        """Store the bytes, and return the generation for the record."""
        store = self._workspace.store
        if (
            copy.generation is not None
            and copy.generation >= damage.generation
            and damage.state != "deleting"
        ):
            return copy.generation  # the database is older than the store: the record was behind
        # A name that was given up once is never used again.
        generation = damage.generation + (damage.state in ("deleting", "absent"))
        expected = FileEntry(copy.path.name, damage.size, damage.digest)
        # This also quarantines a damaged blob.
        store.put_file(copy.path, expected=expected, generation=generation)
        store.verify(damage.digest, damage.size, generation=generation)
        return generation

    def _record(
        self,
        action: str,
        damage: Damage,
        detail: Mapping[str, Any],
        *,
        kind: str = "blob",
        generation: int | None = None,
    ) -> None:
        workspace = self._workspace
        with workspace.database.write() as session:
            if generation is not None:
                row = session.get(tables.BlobRow, damage.digest, populate_existing=True)
                if row is None:
                    now = workspace.database.utcnow(session)
                    row = tables.BlobRow(digest=damage.digest, generation=generation, created_at=now)
                    session.add(row)
                row.state, row.generation, row.tomb_expires = "ready", max(row.generation, generation), None
                row.size = damage.size
            events.record(session, action, kind, damage.digest, detail)

    def _repair_fused(self, problem: Problem, damage: Damage) -> Repair | Problem:
        """Quarantine a damaged cache entry, and rebuild the model with the recorded digest."""
        from ..fusion.fuse import remake

        key = damage.digest
        if key not in self._remade and key not in self._failed:
            moved = self._workspace.cache.quarantine(key)
            try:
                remake(self._workspace, key, reporter=Reporter(self._say))
            except FuseryError as error:
                self._failed[key] = error.message
            else:
                self._record("fused.repaired", damage, {"moved_to": moved}, kind="fused")
                self._remade[key] = moved
        if key in self._failed:
            reason = self._failed[key]
            return replace(problem, message=f"{problem.message}; quarantined, but not rebuilt: {reason}")
        return Repair.extending(problem, source="its recipe", quarantined=self._remade[key])
