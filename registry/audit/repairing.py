"""Repair: good bytes in the place of missing or damaged ones, from a copy or from a recipe; each repair is an event.

A damaged blob is put aside and never deleted.  What is put in its place is verified before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import Reporter

from .. import tables
from ..database import events
from ..database.intents import reading
from .copies import Copies, Copy
from .report import Damage, Problem, Repair, Report

if TYPE_CHECKING:
    from ..workspace import Workspace


def repair_all(
    workspace: Workspace, report: Report, folders: Sequence[Path], say: Callable[[str], None]
) -> None:
    """Repair what can be; the problems that are left stay in the report, the others go over to `repaired`."""
    with workspace.cache.scratch() as scratch:
        repairer = _Repairer(workspace, Copies(workspace, folders, scratch), say)
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
    def __init__(self, workspace: Workspace, copies: Copies, say: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._copies = copies
        self._say = say
        self._remade: dict[str, str | None] = {}
        self._failed: dict[str, str] = {}

    def repair(self, problem: Problem) -> Repair | Problem:
        """Return the repair, or the problem if it is still one."""
        if problem.damage is None:
            return problem
        if _is_cached(problem.damage):
            return self._repair_fused(problem, problem.damage)
        # The collector keeps off: a blob that something refers to is safe, but a row may say otherwise just now.
        with reading(self._workspace.database, [problem.damage.digest], self._workspace.owner()):
            return self._repair_blob(problem, problem.damage)

    def _repair_blob(self, problem: Problem, damage: Damage) -> Repair | Problem:
        if problem.code == "blob_size_differs":
            return self._repair_size(problem, damage)
        copy = self._copies.find(damage) or self._rebuilt(damage)
        if copy is None:
            name = self._workspace.store.quarantine(damage.digest, generation=damage.generation)
            if name is None:
                return problem
            self._record("blob.quarantined", damage, {"moved_to": name})
            return replace(problem, message=f"{problem.message}; moved to {name}, and there is no copy")
        generation = self._put(damage, copy)
        quarantined = self._newest_in_quarantine(damage)
        detail = {"source": copy.source, "generation": generation, "moved_to": quarantined}
        self._record("blob.repaired", damage, detail, generation=generation)
        return Repair(problem, copy.source, quarantined)

    def _repair_size(self, problem: Problem, damage: Damage) -> Repair:
        """Correct the size in the row of a blob whose bytes match the manifest."""
        detail = {"size": damage.size, "recorded_size": damage.recorded_size}
        self._record("blob.repaired", damage, detail, generation=damage.generation)
        return Repair(problem, "the blob's own bytes")

    def _rebuilt(self, damage: Damage) -> Copy | None:
        """Return the file of a published fused model that is made again by its recipe, None if it is of none."""
        from ..fusion.fuse import remake

        files, fused = tables.ManifestFile, tables.Fused
        with self._workspace.database.read() as session:
            query = select(fused.key).join(files, files.manifest_id == fused.manifest_id)
            keys = list(session.scalars(query.where(files.blob == damage.digest)))
        for key in keys:
            try:
                remake(self._workspace, Digest(key), reporter=Reporter(self._say))
            except FuseryError as error:
                self._say(f"{key[:12]} cannot be made again: {error.message}")
            else:
                if (copy := self._copies.find(damage)) is not None:
                    return replace(copy, source=f"the recipe of {key[:12]}")
        return None

    def _put(self, damage: Damage, copy: Copy) -> int:
        """Bring the bytes under a name that the record can point to; return its generation."""
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
        # What is damaged there goes to quarantine on the way.
        store.put_file(copy.path, expected=expected, generation=generation)
        store.verify(damage.digest, damage.size, generation=generation)
        return generation

    def _newest_in_quarantine(self, damage: Damage) -> str | None:
        names = (found.name for found in self._workspace.store.quarantined())
        return max((name for name in names if damage.digest in name), default=None)

    def _record(
        self,
        action: str,
        damage: Damage,
        detail: dict[str, Any],
        *,
        kind: str = "blob",
        generation: int | None = None,
    ) -> None:
        workspace = self._workspace
        with workspace.database.write() as session:
            if generation is not None:
                row = session.get(tables.Blob, damage.digest, populate_existing=True)
                if row is None:
                    row = tables.Blob(
                        digest=damage.digest,
                        size=damage.size,
                        created_at=workspace.database.utcnow(session),
                    )
                    session.add(row)
                    row.generation = generation
                row.state, row.generation, row.tomb_expires = "ready", max(row.generation, generation), None
                row.size = damage.size
            events.record(
                session,
                action=action,
                kind=kind,
                subject=damage.digest,
                detail=detail,
                actor=workspace.actor,
            )

    def _repair_fused(self, problem: Problem, damage: Damage) -> Repair | Problem:
        """Put a damaged entry of the cache aside and make the model again; its digest must be the recorded one."""
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
            return replace(problem, message=f"{problem.message}; moved away, and not made again: {reason}")
        return Repair(problem, "its recipe", self._remade[key])
