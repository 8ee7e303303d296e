"""One audit: check everything and, optionally, repair what can be repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..database.sealing import Key
from .auditable import auditable_items
from .checks import check_blobs, check_definitions, check_events, check_folder, check_sealed, note_garbage
from .recomputing import check_again
from .report import Report

if TYPE_CHECKING:
    from ..workspace import Workspace


def audit(
    workspace: Workspace,
    references: tuple[str, ...] = (),
    *,
    repair: bool = False,
    copies: tuple[Path, ...] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Rehash and cross-check what is registered.

    Checked are: manifests against their digests, blobs against size and digest, bases kept by reference, fused models
    in the cache, bundles that are still where they were written, what follows from the bytes of bases and adapters and from
    the recipes of fused models, records against their seals, and, without references,
    the chain of events and what the store holds besides.

    Args:
        workspace: the registry's parts.
        references: only these adapters, bases and fused artifacts, with the bases and adapters they came from, and the
            bases' calibrations.
        repair: put back what is missing or damaged from a copy whose digest matches, make fused models again by their
            recipe, and put damaged blobs aside; nothing is deleted.
        copies: with `repair`, folders to look for copies in, besides those that are on record.
        say: called with what is being checked.

    Raises:
        UnknownReferenceError: a reference names nothing.
        MissingFileError: a folder of `copies` is not there.
    """
    report = Report()
    with workspace.database.read() as session:
        found = list(auditable_items(session, workspace, references, report))
    seen: set[tuple[str, int]] = set()
    for item in found:
        say(f"{item.kind} {item.name}")
        report.checked[item.kind] += 1
        check_blobs(workspace, item, report, seen)
        if item.folder is not None:
            check_folder(workspace, item, report)
        check_again(workspace, item, report)
    if repair:
        from .repairing import repair_all

        repair_all(workspace, report, copies, say)
    if references:
        check_sealed(workspace, report, frozenset[Key]().union(*(item.records for item in found)))
    else:
        check_events(workspace, report)
        check_definitions(workspace, report)
        check_sealed(workspace, report)
        note_garbage(workspace, report)
    return report


def audit_chain(workspace: Workspace, anchors: Sequence[Path] = (), keys: Sequence[Path] = ()) -> Report:
    """Follow the chain of the log alone: every entry against its hash and the one before, and the log's own guards.

    Args:
        workspace: the registry's parts.
        anchors: documents of `fusery signature anchor`; the log must still have the entry of each.
        keys: PEM files of public keys, one of which has to have signed each anchor.

    Raises:
        BadSignatureError: an anchor cannot be read, or none of the keys signed it.
    """
    from ..signing.anchor import read_anchor
    from .anchored import check_anchor

    report = Report()
    for place in anchors:
        check_anchor(workspace, read_anchor(place, keys), place.name, report, checked=bool(keys))
    check_events(workspace, report)
    return report


def audit_rebuild(
    workspace: Workspace, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Make fused models again, all or those that references name or led to, and hold them against the record.

    Raises:
        UnknownReferenceError: a reference names nothing.
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
