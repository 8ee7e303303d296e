"""One audit: check everything and, optionally, repair what can be repaired."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.progress import SILENT, Reporter
from fusery.storage.transfer import AT_ONCE

from .. import tables
from ..database import events
from ..database.schema import differences
from ..database.sealing import Key
from ..records.withdrawals import of_adapters
from ..workspace.executor import Threads
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
from .recomputing import Contexts, check_again
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
    """Verify records against bytes (blobs, referenced base models, cached models, bundles), computed facts, seals and the log.

    With references, only these records, their ancestors and the calibrations of the base models are checked, and neither
    the chain of the log, the anchors nor the unreferenced files in the store.  `repair` deletes nothing.
    """
    report, known = Report(), _read_anchors(anchors, keys)
    with workspace.database.read() as session:
        found = list(auditable_items(session, workspace, references, report))
        _note_yanks(session, found, report)
    items, contexts = list(with_blobs(workspace, found)), Contexts()
    if not references:
        report.checked.update(dict.fromkeys([*(item.kind for item in found), "blob"], 0))  # in this order
    troubles, folders = _read_ahead(workspace, items, jobs, reporter)
    for item, blobs in items:
        report.checked[item.kind] += 1
        for damage, subject in blobs.items():
            check_blob(workspace, damage, subject, troubles.get(damage), report)
        if item.folder is not None:
            report.checked["file"] += len(item.manifest)
            report.problems += folders[item].problems
            report.notes += folders[item].notes
        check_again(workspace, item, report, contexts)
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


def _read_ahead(
    workspace: Workspace,
    items: Sequence[tuple[AuditableItem, Mapping[Damage, str]]],
    jobs: int,
    reporter: Reporter,
) -> tuple[Mapping[Damage, Trouble], Mapping[AuditableItem, Report]]:
    """Read blobs and folders in parallel; return the problems of each."""
    blobs = {damage: subject for _, found in items for damage, subject in found.items()}
    folders = [item for item, _ in items if item.folder is not None]
    names = itertools.count(1)

    def report(name: str) -> None:
        reporter.item(name)
        reporter.progress(next(names), len(blobs) + len(folders))

    troubles: dict[Damage, Trouble] = {}
    reports: defaultdict[AuditableItem, Report] = defaultdict(Report)
    for read in Threads(max(jobs, AT_ONCE)).run(partial(trouble_of, workspace), blobs):
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
    names = {number: item.name for item in items for kind, number in item.records if kind == "adapter"}
    with in_order(report, "the yanks"):
        for number, withdrawals in sorted(of_adapters(session, names).items()):
            others = [each for each in withdrawals if each.relation != "itself"]
            report.notes += [f"{names[number]}: {withdrawal.summary}" for withdrawal in others]


def audit_chain(workspace: Workspace, anchors: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Report:
    """Verify only the chain of the log: the hash of every entry, and the link to the previous one; see `audit`."""
    report = Report()
    _check_anchors(workspace, _read_anchors(anchors, keys), report, checked=bool(keys))
    check_events(workspace, report)
    return report


def _read_anchors(places: Sequence[Path], keys: Sequence[Path]) -> list[tuple[str, Anchor]]:
    from ..provenance.anchor import read_anchor

    return [(place.name, read_anchor(place, keys)) for place in places]


def _check_anchors(
    workspace: Workspace, anchors: Sequence[tuple[str, Anchor]], report: Report, *, checked: bool
) -> None:
    # With the chain, an anchor's entry shows that nothing up to it was changed.
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
