"""What an audit reads, read ahead by many hands: each blob and each folder once, taken up where an interrupted one stopped."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fusery.storage.digest import Digest
from fusery.storage.hands import AT_ONCE

from ..workers.cluster import Cluster, cluster_address
from ..workers.executor import Outcome, Threads, Workers
from ..workers.site import Site
from .auditable import AuditableItem
from .checks import Reader, Trouble, check_folder, trouble_of
from .journal import Journal
from .report import Damage, Report

if TYPE_CHECKING:
    from fusery.storage.progress import Reporter

    from ..workspace import Workspace

T = TypeVar("T")
R = TypeVar("R")


KEPT = 256 << 20
"""Bytes of small blobs that are held on this machine from when they are read until what they are of is looked at."""

SMALL = 8 << 20


class Kept:
    """Small blobs that were verified while they came, in a folder that only this audit enters.

    Attributes:
        blobs: where each lies.
    """

    def __init__(self, folder: Path, most: int = KEPT) -> None:
        self.blobs: dict[Digest, Path] = {}
        self._folder, self._left, self._lock = folder, most, threading.Lock()

    def trouble_of(self, workspace: Workspace, damage: Damage) -> Trouble:
        """Return what is wrong with a blob, and keep it if it is whole and there is room."""
        place = self._folder / damage.digest
        with self._lock:
            room = damage.state == "ready" and 0 <= damage.size <= min(SMALL, self._left)
            self._left -= damage.size if room else 0
        if room and trouble_of(workspace, damage, place) is None:
            self.blobs[damage.digest] = place
            return None
        # Also where it could not be written here, which says nothing about the blob.
        return trouble_of(workspace, damage)


@dataclass(frozen=True, slots=True)
class BlobJob:
    """Read a blob through, on any machine."""

    site: Site

    def __call__(self, damage: Damage) -> Trouble:
        """Return code and message of what is wrong with it, None if it is whole."""
        with self.site.opened() as workspace:
            return trouble_of(workspace, damage)


def read_ahead(
    workspace: Workspace,
    items: Sequence[tuple[AuditableItem, Mapping[Damage, str]]],
    jobs: int,
    *,
    anew: bool,
    reporter: Reporter,
    kept: Kept | None = None,
) -> Reader:
    """Read blobs and folders, and return who knows what is wrong with each.

    Blobs are read by threads of this process or by the cluster of `FUSERY_CLUSTER`; folders, which are this machine's
    own, always here.  See `audit.audit` for what it takes and raises.  What this machine reads of adapters goes to `kept`.
    """
    store = str(workspace.store.identify())
    blobs = {
        damage: (
            f"blob {damage.digest} {damage.generation} {damage.state} {damage.recorded_size}",
            subject,
        )
        for _, found in items
        for damage, subject in found.items()
    }
    folders = {
        item: (f"folder {item.kind} {item.digest} {item.file or item.folder}", item.name)
        for item, _ in items
        if item.folder is not None
    }
    troubles: dict[Damage, Trouble] = {}
    reports: defaultdict[AuditableItem, Report] = defaultdict(Report)
    with Journal(workspace.settings.private / "audits" / f"{store}.ndjson", store, anew=anew) as journal:
        tally = _Tally(journal, len(blobs) + len(folders), reporter)
        for read in tally.run(*_hands(workspace, store, jobs, kept), blobs):
            # A store that cannot be asked is not a damaged blob, but nobody knows that it is whole.
            troubles[read.item] = ("blob_unreadable", read.failure.message) if read.failure else read.result
        for looked in tally.run(Threads(jobs), partial(_look, workspace), folders):
            if looked.failure is not None:
                reports[looked.item].add("unreadable", looked.item.name, looked.failure.message)
            elif looked.result is not None:
                reports[looked.item] = looked.result
    begun = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(journal.begun))
    note = f"{tally.skipped} were found right by an audit that was interrupted, begun {begun}"
    return Reader(troubles.get, reports.__getitem__, (note,) if tally.skipped else ())


def _hands(
    workspace: Workspace, store: str, jobs: int, kept: Kept | None
) -> tuple[Workers, Callable[[Damage], Trouble]]:
    address = cluster_address()
    if address is not None:
        return Cluster(address), BlobJob(Site(store))
    look = trouble_of if kept is None else kept.trouble_of
    return Threads(max(jobs, AT_ONCE)), partial(look, workspace)


def _look(workspace: Workspace, item: AuditableItem) -> Report | None:
    """Return what was found in a folder, None if it is whole."""
    seen = check_folder(workspace, item)
    return seen if seen.problems or seen.notes else None


class _Tally:
    """Counts what is done, and knows what an earlier audit did."""

    def __init__(self, journal: Journal, total: int, reporter: Reporter) -> None:
        self._journal = journal
        self._total = total
        self._reporter = reporter
        self._done = self.skipped = 0

    def run(
        self, workers: Workers, work: Callable[[T], R], things: Mapping[T, tuple[str, str]]
    ) -> Iterator[Outcome[T, R]]:
        """Yield what comes of each thing that is still to be looked at, and note those that nothing came of: they are whole.

        Args:
            workers: who looks.
            work: returns what is wrong with a thing, or None.
            things: what each is in a journal, and for people.
        """
        left = [thing for thing, (unit, _) in things.items() if unit not in self._journal.done]
        self.skipped += len(things) - len(left)
        for _ in range(len(things) - len(left)):
            self._count()
        for outcome in workers.run(work, left) if left else ():
            unit, name = things[outcome.item]
            if outcome.failure is None and outcome.result is None:
                self._journal.note(unit)
            self._reporter.item(name)
            self._count()
            yield outcome

    def _count(self) -> None:
        self._done += 1
        self._reporter.progress(self._done, self._total)
