"""One audit: check everything and, optionally, repair what can be repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.locate import local_path
from fusery.storage.progress import SILENT, Reporter

from ..database.sealing import Key
from ..records.withdrawals import of_adapters
from .anchored import check_anchors, read_anchors
from .auditable import AuditableItem, auditable_items
from .checks import (
    Reader,
    check_blob,
    check_claims,
    check_definitions,
    check_events,
    check_folder,
    check_sealed,
    note_garbage,
    trouble_of,
    with_blobs,
)
from .facts import Ahead
from .recomputing import check_again
from .report import Damage, Report, in_order

if TYPE_CHECKING:
    from ..workspace import Workspace


def audit(
    workspace: Workspace,
    references: tuple[str, ...] = (),
    *,
    repair: bool = False,
    copies: tuple[Path, ...] = (),
    jobs: int | None = None,
    anew: bool = False,
    anchors: Sequence[Path] = (),
    keys: Sequence[Path] = (),
    reporter: Reporter = SILENT,
) -> Report:
    """Rehash and cross-check what is registered.

    Checked are: manifests against their digests, blobs against size and digest, bases kept by reference, fused models
    in the cache, bundles that are still where they were written, what follows from the bytes of bases and adapters and from
    the recipes of fused models, records against their seals, and, without references,
    the chain of events and what the store holds besides.

    Args:
        workspace: the registry's parts.
        references: only these adapters, bases and fused artifacts, with all the bases and adapters they came from, and the
            bases' calibrations.
        repair: put back what is missing or damaged from a copy whose digest matches, make fused models again by their
            recipe, and put damaged blobs aside; nothing is deleted.
        copies: with `repair`, folders to look for copies in, besides those that are on record.
        jobs: read so many blobs and folders at a time before all else, with a journal by which an audit that was interrupted
            is taken up; None to read one after the other, without a journal.
        anew: with `jobs`, read again what an interrupted audit has found right already.
        anchors: without references, documents of `fusery signature anchor`; the log must still have the entry of each.
        keys: PEM files of public keys, one of which has to have signed each anchor.
        reporter: hears what is being checked and, with `jobs`, how many blobs and folders are done, and how many there are.

    Raises:
        UnknownReferenceError: a reference names nothing.
        MissingFileError: a folder of `copies` is not there.
        PluginError: a plugin cannot be used, a rule among them: none is passed over.
        MissingExtraError, ClusterError: with `jobs`, the cluster cannot be used.
        BadSignatureError: an anchor cannot be read, or none of the keys signed it.
    """
    report, known = Report(), read_anchors(anchors, keys)
    with workspace.database.read() as session:
        found = list(auditable_items(session, workspace, references, report))
        _note_yanks(session, found, report)
    items: Iterable[tuple[AuditableItem, dict[Damage, str]]] = with_blobs(workspace, found)
    reader = Reader(partial(trouble_of, workspace), partial(check_folder, workspace))
    with ExitStack() as held:
        ahead = Ahead(workspace, found)
        if jobs is not None:
            from .ahead import Kept, read_ahead

            items = list(items)
            report.checked.update(dict.fromkeys([*(item.kind for item in found), "blob"], 0))  # in this order
            kept = None
            if local_path(workspace.settings.store) is None:
                kept = Kept(held.enter_context(workspace.cache.scratch()))
                ahead.kept = kept.blobs
            reader = read_ahead(workspace, items, jobs, anew=anew, reporter=reporter, kept=kept)
        _look(workspace, items, reader, ahead, report, reporter if jobs is None else SILENT)
    if repair:
        from .repairing import repair_all

        repair_all(workspace, report, copies, reporter.say)
    if references:
        check_sealed(workspace, report, frozenset[Key]().union(*(item.records for item in found)))
    else:
        check_anchors(workspace, known, report, checked=bool(keys))
        check_events(workspace, report)
        check_definitions(workspace, report)
        check_sealed(workspace, report)
        check_claims(workspace, report)
        note_garbage(workspace, report)
    report.notes += reader.notes
    return report


def _note_yanks(session: Session, items: Sequence[AuditableItem], report: Report) -> None:
    """Note the adapters that have the bytes of a yanked adapter, or were computed from it; they are not refused."""
    names = {number: item.name for item in items for kind, number in item.records if kind == "adapter"}
    with in_order(report, "the yanks"):
        for number, withdrawals in sorted(of_adapters(session, names).items()):
            others = [each for each in withdrawals if each.relation != "itself"]
            report.notes += [f"{names[number]}: {withdrawal.told}" for withdrawal in others]


def _look(
    workspace: Workspace,
    items: Iterable[tuple[AuditableItem, dict[Damage, str]]],
    reader: Reader,
    ahead: Ahead,
    report: Report,
    reporter: Reporter,
) -> None:
    """Note what is wrong with each record: its blobs, its folder, and what follows from its bytes."""
    for item, blobs in items:
        reporter.item(f"{item.kind} {item.name}")
        report.checked[item.kind] += 1
        for damage, subject in blobs.items():
            check_blob(workspace, damage, subject, reader.blob(damage), report)
        if item.folder is not None:
            report.checked["file"] += len(item.manifest)
            seen = reader.folder(item)
            report.problems += seen.problems
            report.notes += seen.notes
        check_again(workspace, item, report, ahead)


def audit_chain(workspace: Workspace, anchors: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Report:
    """Follow the chain of the log alone: every entry against its hash and the one before.

    Args:
        workspace: the registry's parts.
        anchors: documents of `fusery signature anchor`; the log must still have the entry of each.
        keys: PEM files of public keys, one of which has to have signed each anchor.

    Raises:
        BadSignatureError: an anchor cannot be read, or none of the keys signed it.
    """
    report = Report()
    check_anchors(workspace, read_anchors(anchors, keys), report, checked=bool(keys))
    check_events(workspace, report)
    return report


def audit_rebuild(
    workspace: Workspace, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Make fused models again, all or those that references name or led to, and hold them against the record.

    Raises:
        UnknownReferenceError: a reference names nothing.
        PluginError: a plugin cannot be used.
    """
    from .rebuild import rebuild

    report = Report()
    for one in rebuild(workspace, references, say=say):
        report.checked["fused"] += 1
        report.rebuilt.append(one)
        if one.verdict == "different":
            report.add("rebuild_differs", one.name, one.message)
        elif one.verdict == "not-rebuilt":
            report.notes.append(f"{one.name} could not be made again: {one.message}")
    return report
