"""What is read with the rows of many adapters, in as many statements as for one: their parts, and what is said of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from .. import tables
from ..database.batches import batches
from ..records.references import load_adapters
from .counting import have_short_logs

MOST_EVENTS = 200
"""Entries of the log about one thing that travel with it; the newest count."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What belongs to a record without being a part of its row.

    Attributes:
        yanks: of an adapter.
        signatures: over the digest of its manifest.
        events: what the log says of it, oldest first; None where that is still to be read.
    """

    yanks: list[tables.Yank] = field(default_factory=list)
    signatures: list[tables.Signature] = field(default_factory=list)
    events: list[tables.Event] | None = None


def read_beside(session: Session, rows: Sequence[tables.Adapter]) -> dict[int, Beside]:
    """Return what belongs to adapters, by their numbers, and load their parts; it was counted before.

    Args:
        session: which has the rows.
        rows: the adapters.
    """
    adapter, rendering = tables.Adapter, tables.AdapterRendering
    query = load_adapters().options(
        joinedload(adapter.manifest).selectinload(tables.Manifest.files),
        joinedload(adapter.run),
        selectinload(adapter.renderings).joinedload(rendering.manifest).selectinload(tables.Manifest.files),
        selectinload(adapter.sources),
        selectinload(adapter.curve),
        selectinload(adapter.evaluations),
    )
    yank, signature, event = tables.Yank, tables.Signature, tables.Event
    yanks, signatures = (
        defaultdict[int, list[tables.Yank]](list),
        defaultdict[str, list[tables.Signature]](list),
    )
    for some in batches(row.id for row in rows):
        session.scalars(query.where(adapter.id.in_(some))).unique().all()
        for yanked in session.scalars(select(yank).where(yank.adapter_id.in_(some)).order_by(yank.id)):
            yanks[yanked.adapter_id].append(yanked)
    for digests in batches(row.digest for row in rows):
        signed = select(signature).where(signature.subject_digest.in_(digests)).order_by(signature.id)
        for found in session.scalars(signed):
            signatures[found.subject_digest].append(found)
    told: defaultdict[str, list[tables.Event]] | None = None
    names = [row.name for row in rows]
    if have_short_logs(session, "adapter", names, MOST_EVENTS):
        told = defaultdict(list)
        for subjects in batches(names):
            said = select(event).where(event.subject_kind == "adapter", event.subject.in_(subjects))
            for entry in session.scalars(said.order_by(event.seq)):
                told[entry.subject].append(entry)
    return {
        row.id: Beside(yanks[row.id], signatures[row.digest], None if told is None else told[row.name])
        for row in rows
    }
