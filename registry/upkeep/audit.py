"""One audit: check everything and, optionally, repair what can be repaired."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.errors import FuseryError, StoreDeniedError
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.transfer import AT_ONCE
from fusery.storage.transfer import in_order as in_parallel

from .. import tables
from ..database import events
from ..database.schema import differences
from ..database.sealing import Key
from ..records.withdrawals import of_adapters
from ..workspace.workspace import Workspace
from . import checks
from .recomputing import Contexts, check_again
from .report import Damage, Problem, Report, in_order

if TYPE_CHECKING:
    from ..provenance.anchor import Anchor

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
    report, parsed_anchors = Report(), _read_anchors(anchors, keys)
    with workspace.database.read() as session:
        items = list(checks.auditable_items(session, workspace, references, report))
        names = {number: item.name for item in items for kind, number in item.records if kind == "adapter"}
        with in_order(report, "the yanks"):
            for number, withdrawals in sorted(of_adapters(session, names).items()):
                others = (withdrawal.summary for withdrawal in withdrawals if withdrawal.relation != "itself")
                report.notes += [f"{names[number]}: {summary}" for summary in others]
        blobs = checks.blobs_of(session, items)
    if not references:
        report.checked.update(dict.fromkeys([*(item.kind for item in items), "blob"], 0))  # in this order
    parts = _read(workspace, blobs, jobs, reporter)
    for item in items:
        report.checked[item.kind] += 1
        report.extend(parts[item])
    if repair:
        from .repairing import repair_all

        repair_all(workspace, report, copies, reporter.say)
    if references:
        checks.check_sealed(workspace, report, frozenset[Key]().union(*(item.records for item in items)))
    else:
        _check_anchors(workspace, parsed_anchors, report, checked=bool(keys))
        checks.check_events(workspace, report)
        report.problems += (
            Problem("schema_differs", f"table {table}", message)
            for table, message in differences(workspace.database)
        )
        checks.check_sealed(workspace, report)
        checks.note_garbage(workspace, report)
    return report


# Blobs of a record, with the paths of their files, or its folder.
_Part = tuple[checks.AuditableItem, Mapping[Damage, str]]


def _read(
    workspace: Workspace,
    blobs: Mapping[checks.AuditableItem, Mapping[Damage, str]],
    jobs: int,
    reporter: Reporter,
) -> Mapping[checks.AuditableItem, Report]:
    """Read blobs and folders in parallel, each once, and recompute the records; return a report of each record."""
    parts: list[_Part] = [
        (item, chosen)
        for item, own in blobs.items()
        for chosen in ([own] if item.kind == "adapter" else [{damage: own[damage]} for damage in own])
    ]
    parts += [(item, {}) for item in blobs if item.folder is not None]
    reports, contexts = {item: Report() for item in blobs}, Contexts()
    troubles, folders = dict[Damage, checks.Trouble](), dict[checks.AuditableItem, Report]()
    with ExitStack() as kept:
        try:
            scratch = kept.enter_context(workspace.cache.scratch())
        except StoreDeniedError:  # a registry that this user may only read
            scratch = Path(kept.enter_context(TemporaryDirectory()))
        read = partial(_read_part, workspace, scratch)
        results = in_parallel(read, parts, max(jobs, AT_ONCE))
        for number, ((item, own), result) in enumerate(zip(parts, results, strict=True), 1):
            reporter.item(next((f"{item.name}: {path}" for path in own.values()), item.name))
            reporter.progress(number, len(parts))
            if isinstance(result, Report):
                folders[item] = result
            else:
                troubles |= result
            if item.kind == "adapter":
                if not any(troubles[damage] for damage in own):
                    check_again(workspace, item, reports[item], contexts, scratch / str(item.number))
                shutil.rmtree(scratch / str(item.number), ignore_errors=True)
    for item, report in reports.items():
        again = Report(problems=report.problems, notes=report.notes)
        report.problems, report.notes = [], []
        for damage, path in blobs[item].items():
            checks.check_blob(workspace, damage, f"{item.name}: {path}", troubles[damage], report)
        if item in folders:
            report.checked["file"] += len(item.manifest)
            report.extend(folders[item])
        if item.kind != "adapter" and report.ok:
            check_again(workspace, item, again, contexts, None)
        report.extend(again)
    return reports


def _read_part(workspace: Workspace, scratch: Path, part: _Part) -> Report | dict[Damage, checks.Trouble]:
    """Compare a folder, or verify blobs; those of an adapter are copied to a folder for what is recomputed of it."""
    item, own = part
    try:
        if item.kind == "adapter":
            folder = scratch / str(item.number)
            for path in item.stored:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
            return {
                damage: checks.trouble_of(workspace, damage, folder / path) for damage, path in own.items()
            }
        if own:
            return {damage: checks.trouble_of(workspace, damage) for damage in own}
        return checks.check_folder(workspace, item)
    except FuseryError as error:
        if own:
            return dict.fromkeys(own, ("blob_unreadable", error.message))
        return Report(problems=[Problem("unreadable", item.name, error.message)])


def audit_chain(workspace: Workspace, anchors: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Report:
    """Verify only the chain of the log: the hash of every entry, and the link to the previous one; see `audit`."""
    report = Report()
    _check_anchors(workspace, _read_anchors(anchors, keys), report, checked=bool(keys))
    checks.check_events(workspace, report)
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
