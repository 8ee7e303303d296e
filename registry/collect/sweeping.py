"""What lies in the store and no row stands for: dead generations, names of nobody's, what interrupted writes left.

The store is listed *first* and the rows are read afterwards: a deposit has its row before its bytes, so a name that
was listed and has no row belongs to nobody, however fast somebody works beside us.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fusery.storage.interface import Blob as Stored
from fusery.storage.interface import BlobStore, Leftover
from fusery.storage.layout import blob_name
from fusery.storage.probes import has_maker, is_maker_dead

from .. import tables
from ..database import Database
from .collection import Removed
from .liveness import dead_owners, is_referenced, somebody_works

ABANDONED = 86400.0
"""Seconds after which a write that has not gone on is given up whoever works at the moment."""

_BATCH = 500


@dataclass(slots=True)
class Listing:
    """A store, held against the database.

    Attributes:
        listed: blobs that were seen, of any generation.
        dead: generations that were deleted or given up once.
        unknown: blobs that no row stands for.
        ahead: blobs of a later generation than their row says: the database is older than the store.
    """

    listed: int = 0
    dead: list[Stored] = field(default_factory=list)
    unknown: list[Stored] = field(default_factory=list)
    ahead: list[Stored] = field(default_factory=list)


def survey(database: Database, store: BlobStore) -> Listing:
    """List the store and hold it against the database."""
    listing = Listing()
    names = store.blobs()
    while batch := list(islice(names, _BATCH)):
        with database.read() as session:
            wanted = [stored.digest for stored in batch]
            row = tables.Blob
            known = dict(
                session.execute(select(row.digest, row.generation).where(row.digest.in_(wanted))).all()
            )
        for stored in batch:
            generation = known.get(stored.digest)
            listing.listed += 1
            if generation is None:
                listing.unknown.append(stored)
            elif stored.generation < generation:
                listing.dead.append(stored)
            elif stored.generation > generation:
                listing.ahead.append(stored)
    return listing


def delete_dead(store: BlobStore, listing: Listing) -> Iterator[Removed]:
    """Delete the dead generations; yield what went."""
    for stored in listing.dead:
        freed = store.delete(stored.digest, generation=stored.generation)
        if freed:
            yield Removed("generation", blob_name(stored.digest, stored.generation), freed)


def planned_dead(listing: Listing) -> list[Removed]:
    """Return what `delete_dead` would remove."""
    return [
        Removed("generation", blob_name(stored.digest, stored.generation), stored.size)
        for stored in listing.dead
    ]


def adopt(session: Session, listing: Listing, at: datetime) -> None:
    """Give a row to the names that have none, so that they can be collected like everything else.

    A database that was restored from a backup does not know what was stored since, and its generations lag behind; a
    blob that something refers to is left to `audit --repair`, which looks at the bytes.
    """
    known: dict[str, tables.Blob] = {}
    for stored in sorted([*listing.unknown, *listing.ahead], key=lambda stored: stored.generation):
        row = known.get(stored.digest) or session.get(tables.Blob, stored.digest)
        if row is None:
            row = tables.Blob(
                digest=stored.digest,
                size=stored.size,
                generation=stored.generation,
                state="pending",
                created_at=at,
            )
            session.add(row)
            known[stored.digest] = row
            session.flush()
        elif stored.generation > row.generation:
            session.execute(
                update(tables.Blob)
                .where(tables.Blob.digest == stored.digest, ~is_referenced())
                .values(generation=stored.generation, state="pending", created_at=at, tomb_expires=None)
            )


def abandoned(database: Database, store: BlobStore, grace: float) -> tuple[list[Leftover], list[Leftover]]:
    """Return what interrupted writes left and nobody needs, and what somebody may still be writing.

    While anybody has an intent, a part file may be theirs, and only what has not grown for a day goes.  So does what says
    who made it, while that process may run: a probe, a copy that is being looked at.
    """
    found = list(store.leftovers())
    if not found:
        return [], []
    with database.read() as session:
        busy = somebody_works(session, dead_owners(session))
    going: list[Leftover] = []
    waiting: list[Leftover] = []
    for left in found:
        (going if left.age_seconds >= _patience(left, grace, busy=busy) else waiting).append(left)
    return going, waiting


def _patience(left: Leftover, grace: float, *, busy: bool) -> float:
    # It belongs to somebody who has no intent yet; it does say who that is.
    waits = not is_maker_dead(left.name) if has_maker(left.name) else busy
    return ABANDONED if waits else min(grace, ABANDONED)


def delete_abandoned(store: BlobStore, leftovers: list[Leftover]) -> Iterator[Removed]:
    """Remove leftovers; yield what went."""
    for left in leftovers:
        freed = store.remove_leftover(left.name)
        yield Removed("leftover", left.name, freed)
