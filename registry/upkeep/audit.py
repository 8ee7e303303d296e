"""One audit: check everything and, optionally, repair what can be repaired."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.locate import local_path
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.transfer import AT_ONCE

from .. import tables
from ..database import events
from ..database.schema import differences
from ..database.sealing import Key
from ..records.withdrawals import of_adapters
from ..workspace.cluster import Cluster, cluster_address
from ..workspace.executor import ItemOutcome, Site, Threads
from .checks import (
    AuditableItem,
    Trouble,
    auditable_items,
    check_blob,
    check_events,
    check_folder,
    check_sealed,
    note_garbage,
    trouble_of,
    with_blobs,
)
from .recomputing import Ahead, check_again
from .report import Damage, Problem, Report, in_order

if TYPE_CHECKING:
    from ..provenance.anchor import Anchor
    from ..workspace.workspace import Workspace

NOT_ANCHORED = (
    "the log is not anchored: this audit cannot tell an older copy of the database from the newest one "
    "(make an anchor with: fusery sign --log -o FILE, keep it elsewhere, and give it as --anchor FILE)"
)


def audit(
    workspace: Workspace,
    references: tuple[str, ...] = (),
    *,
    repair: bool = False,
    copies: tuple[Path, ...] = (),
    jobs: int = 1,
    anchors: Sequence[Path] = (),
    keys: Sequence[Path] = (),
    reporter: Reporter = SILENT,
) -> Report:
    """Verify records against bytes, seals and the log, and repair them.

    It checks manifests, blobs, base models kept by reference, fused models in the cache, bundles at their recorded paths,
    facts computed from the bytes of base models and adapters and from the recipes of fused models, and seals.  Without
    references, it also checks the chain of the log and unreferenced files in the store.

    Args:
        references: only these adapters, base models and fused models, with their ancestors and the calibrations of the
            base models.
        repair: restore missing or damaged bytes, rebuild fused models, and quarantine damaged blobs; nothing is deleted.
        copies: with `repair`, more folders to search for copies.
        jobs: number of blobs and folders to read in parallel.
        anchors: without references, files of `fusery sign --log`; the log must have the entry of each.
        keys: PEM files of public keys; each anchor must be signed by one of them.
    """
    report, known = Report(), _read_anchors(anchors, keys)
    with workspace.database.read() as session:
        found = list(auditable_items(session, workspace, references, report))
        _note_yanks(session, found, report)
    items, ahead = list(with_blobs(workspace, found)), Ahead(workspace, found)
    if not references:
        report.checked.update(dict.fromkeys([*(item.kind for item in found), "blob"], 0))  # in this order
    with ExitStack() as held:
        kept = None
        if local_path(workspace.settings.store) is None:
            kept = KeptBlobs(held.enter_context(workspace.cache.scratch()))
            ahead.kept = kept.blobs
        troubles, folders = _read_ahead(
            workspace, items, jobs, everything=not references, reporter=reporter, kept=kept
        )
        for item, blobs in items:
            report.checked[item.kind] += 1
            for damage, subject in blobs.items():
                check_blob(workspace, damage, subject, troubles.get(damage), report)
            if item.folder is not None:
                report.checked["file"] += len(item.manifest)
                report.problems += folders[item].problems
                report.notes += folders[item].notes
            check_again(workspace, item, report, ahead)
    if repair:
        from .repairing import repair_all

        repair_all(workspace, report, copies, reporter.say)
    if references:
        check_sealed(workspace, report, frozenset[Key]().union(*(item.records for item in found)))
    else:
        _check_anchors(workspace, known, report, checked=bool(keys))
        check_events(workspace, report)
        report.problems += (
            Problem("schema_differs", f"table {table}", message)
            for table, message in differences(workspace.database)
        )
        check_sealed(workspace, report)
        note_garbage(workspace, report)
    return report


KEPT = 256 << 20
"""Bytes of verified small blobs that are kept on this machine for later checks."""

SMALL = 8 << 20


class KeptBlobs:
    """Verified small blobs in a private folder of this audit."""

    def __init__(self, folder: Path, most: int = KEPT) -> None:
        self.blobs: dict[Digest, Path] = {}
        self._folder, self._left, self._lock = folder, most, threading.Lock()

    def trouble_of(self, workspace: Workspace, damage: Damage) -> Trouble:
        """Return the problem with a blob, or keep the blob if it is whole and there is space."""
        place = self._folder / damage.digest
        with self._lock:
            room = damage.state == "ready" and 0 <= damage.size <= min(SMALL, self._left)
            self._left -= damage.size if room else 0
        if room and trouble_of(workspace, damage, place) is None:
            self.blobs[damage.digest] = place
            return None
        # A failed write to this machine is not a problem of the blob.
        return trouble_of(workspace, damage)


@dataclass(frozen=True, slots=True)
class BlobJob:
    """Reads a blob on any machine."""

    site: Site

    def __call__(self, damage: Damage) -> Trouble:
        """Return the code and message of its problem; None if it is whole."""
        with self.site.opened() as workspace:
            return trouble_of(workspace, damage)


def _read_ahead(
    workspace: Workspace,
    items: Sequence[tuple[AuditableItem, Mapping[Damage, str]]],
    jobs: int,
    *,
    everything: bool,
    reporter: Reporter,
    kept: KeptBlobs | None,
) -> tuple[dict[Damage, Trouble], Mapping[AuditableItem, Report]]:
    """Read blobs and folders in parallel; blobs on the cluster of `FUSERY_CLUSTER`, if `everything` is audited."""
    blobs = {damage: subject for _, found in items for damage, subject in found.items()}
    folders = [item for item, _ in items if item.folder is not None]
    done = 0

    def report(name: str) -> None:
        nonlocal done
        done += 1
        reporter.item(name)
        reporter.progress(done, len(blobs) + len(folders))

    troubles: dict[Damage, Trouble] = {}
    reports: defaultdict[AuditableItem, Report] = defaultdict(Report)
    address = cluster_address() if everything else None
    reading: Iterable[ItemOutcome[Damage, Trouble]]
    if address is not None:
        reading = Cluster(address).run(BlobJob(Site(str(workspace.store.identify()))), list(blobs))
    else:
        look = trouble_of if kept is None else kept.trouble_of
        reading = Threads(max(jobs, AT_ONCE)).run(partial(look, workspace), list(blobs))
    for read in reading:
        report(blobs[read.item])
        # An unavailable store does not prove that a blob is damaged or whole.
        troubles[read.item] = ("blob_unreadable", read.failure.message) if read.failure else read.result
    for seen in Threads(jobs).run(partial(check_folder, workspace), folders):
        report(seen.item.name)
        if seen.failure is not None:
            reports[seen.item].add("unreadable", seen.item.name, seen.failure.message)
        elif seen.result is not None:
            reports[seen.item] = seen.result
    return troubles, reports


def _note_yanks(session: Session, items: Sequence[AuditableItem], report: Report) -> None:
    """Note adapters with the bytes of a yanked adapter, and those computed from one."""
    names = {number: item.name for item in items for kind, number in item.records if kind == "adapter"}
    with in_order(report, "the yanks"):
        for number, withdrawals in sorted(of_adapters(session, names).items()):
            others = [each for each in withdrawals if each.relation != "itself"]
            report.notes += [f"{names[number]}: {withdrawal.told}" for withdrawal in others]


def audit_chain(workspace: Workspace, anchors: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Report:
    """Verify only the chain of the log: the hash of every entry, and the link to the previous one; see `audit`."""
    report = Report()
    _check_anchors(workspace, _read_anchors(anchors, keys), report, checked=bool(keys))
    check_events(workspace, report)
    return report


def _read_anchors(places: Sequence[Path], keys: Sequence[Path]) -> list[tuple[str, Anchor]]:
    """Return anchors with the names of their files."""
    from ..provenance.anchor import read_anchor

    return [(place.name, read_anchor(place, keys)) for place in places]


def _check_anchors(
    workspace: Workspace, anchors: Sequence[tuple[str, Anchor]], report: Report, *, checked: bool
) -> None:
    """Look for the entry of each anchor: with the chain, it shows that nothing up to it was changed."""
    report.anchored = bool(anchors)
    if not anchors:
        report.notes.append(NOT_ANCHORED)
    for name, anchor in anchors:
        with workspace.database.read() as session:
            registry, newest = session.get(tables.RegistryRow, 1), events.last(session)
            here = session.scalar(select(tables.EventRow.hash).where(tables.EventRow.seq == anchor.seq))
        report.checked["anchor"] += 1
        last, subject = newest.seq if newest is not None else 0, f"event {anchor.seq}"
        if registry is None or registry.store_id != anchor.registry:
            message = "the anchor belongs to another registry, or the registry's id was changed"
            report.add("anchor_foreign", name, message)
        elif here is None:
            what = f"it ends at entry {last} now" if last < anchor.seq else f"entry {anchor.seq} is gone"
            report.add("log_cut", subject, f"the log had entry {anchor.seq} when {name} was made, and {what}")
        elif here != anchor.hash:
            message = f"entry {anchor.seq} is not the anchored one of {name}: the log was rewritten up to it"
            report.add("log_rewritten", subject, message)
        elif anchor.key_id is None:
            report.notes.append(f"{name} is not signed: it proves only as much as its storage location")
        elif not checked:
            report.notes.append(f"the signature of {name} was not verified: give --key KEY.pub")


def audit_rebuild(
    workspace: Workspace, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Rebuild fused models, all or those of some references, and compare them with the records."""
    from .rebuild import rebuild

    report = Report()
    for one in rebuild(workspace, references, say=say):
        report.checked["fused"] += 1
        report.rebuilt.append(one)
        if one.verdict == "different":
            report.add("rebuild_differs", one.name, one.message)
        elif one.verdict == "not-rebuilt":
            report.notes.append(f"cannot rebuild {one.name}: {one.message}")
    return report
