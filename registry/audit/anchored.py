"""Anchors against the log: is the entry that was noted down elsewhere still in it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from ..database import events
from .report import Report

if TYPE_CHECKING:
    from ..signing.anchor import Anchor
    from ..workspace import Workspace


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
