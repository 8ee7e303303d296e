"""Compare the log with anchors: the log must still have the entry of each anchor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from ..database import events
from .report import Report

if TYPE_CHECKING:
    from ..signing.anchor import Anchor
    from ..workspace import Workspace

NOT_ANCHORED = (
    "the log is not anchored: this audit cannot tell an older copy of the database from the newest one "
    "(make an anchor with: fusery signature anchor -o FILE, keep it elsewhere, and give it as --anchor FILE)"
)


def read_anchors(places: Sequence[Path], keys: Sequence[Path]) -> list[tuple[str, Anchor]]:
    """Return anchors with the names of their files.

    Args:
        places: documents of `fusery signature anchor`.
        keys: PEM files of public keys, one of which must have signed each anchor.

    Raises:
        BadSignatureError: an anchor cannot be read, or none of the keys signed it.
    """
    from ..signing.anchor import read_anchor

    return [(place.name, read_anchor(place, keys)) for place in places]


def check_anchors(
    workspace: Workspace, anchors: Sequence[tuple[str, Anchor]], report: Report, *, checked: bool
) -> None:
    """Look for the entry of each anchor in the log, or note that there is no anchor.

    Args:
        workspace: the registry's parts.
        anchors: as `read_anchors` returns them.
        report: receives the problems, and the note.
        checked: the anchors' signatures were checked.
    """
    report.anchored = bool(anchors)
    for name, anchor in anchors:
        check_anchor(workspace, anchor, name, report, checked=checked)
    if not anchors:
        report.notes.append(NOT_ANCHORED)


def check_anchor(workspace: Workspace, anchor: Anchor, name: str, report: Report, *, checked: bool) -> None:
    """Look for the entry of an anchor in the log.

    Whether the entries up to it are a chain is checked by `check_events`; together they say that nothing up to the
    anchor was changed.

    Args:
        workspace: the registry's parts.
        anchor: what was noted down.
        name: of its file, for the report.
        report: gets what is wrong.
        checked: its signature was.
    """
    with workspace.database.read() as session:
        registry, newest = session.get(tables.Registry, 1), events.last(session)
        here = session.scalar(select(tables.Event.hash).where(tables.Event.seq == anchor.seq))
    report.checked["anchor"] += 1
    if registry is None or registry.store_id != anchor.registry:
        report.add(
            "anchor_foreign", name, "the anchor is of another registry, or the registry's id was changed"
        )
        return
    last = newest.seq if newest is not None else 0
    if here is None:
        what = f"it ends at entry {last} now" if last < anchor.seq else f"entry {anchor.seq} is gone"
        report.add(
            "log_cut",
            f"event {anchor.seq}",
            f"the log had entry {anchor.seq} when {name} was made, and {what}",
        )
    elif here != anchor.hash:
        report.add(
            "log_rewritten",
            f"event {anchor.seq}",
            f"entry {anchor.seq} is not the one that {name} was made of: the log was written anew up to it",
        )
    elif anchor.key_id is None:
        report.notes.append(f"{name} is not signed: it proves as much as the place it was kept in")
    elif not checked:
        report.notes.append(f"the signature of {name} was not checked: --key KEY.pub does")
