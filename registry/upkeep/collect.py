"""Collection: survey the store, delete what is dead, mark and delete what nothing refers to (docs/internals/collection.md).

The store is listed *first*, and the rows are read afterwards: a deposit has its row before its bytes, so a listed name
without a row belongs to no running command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Collection as Several
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import StoreDeniedError
from fusery.storage.interface import Blob as Stored
from fusery.storage.interface import BlobStore, Leftover
from fusery.storage.layout import blob_name
from fusery.storage.processes import has_process_tag, is_maker_dead

from .. import tables
from ..database import Database, events
from ..database.engine import batches
from ..database.leases import LeaseOwner
from ..database.sealing import touch
from ..errors import BadInputError
from ..parsing import plural, shown_size
from ..tables import BlobRow, IntentRow, ManifestFileRow, ManifestRow, TensorRow
from ..workspace.workspace import Workspace
from .report import Collection, Removed

GRACE = 86400.0  # the default grace, in seconds: unreferenced blobs younger than this stay

TOMBSTONE = 60.0  # seconds that a deposit of the same bytes waits for a collector that does not come back

ABANDONED = 86400.0  # seconds after which a stalled write is given up, even if other commands are running

BATCH = 100  # blobs between two transactions: few enough to be deleted well before their tombstones run out


def collect(
    workspace: Workspace,
    *,
    grace: float | None = None,
    dry_run: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Collection:
    """Remove unreferenced blobs older than `grace` seconds; with `force` also those that the database does not know."""
    grace = GRACE if grace is None else grace
    database, store = workspace.database, workspace.store
    with database.read() as session:
        started = database.utcnow(session)
    say(f"looking through {store.url}")
    listing = _survey(database, store)
    marking = Marking(database, store, grace=grace, started=started)
    with database.read() as session:
        counted = select(func.count(), func.coalesce(func.sum(BlobRow.size), 0)).where(is_referenced())
        live, size = map(int, session.execute(counted).one())
    done = Collection(dry_run, listed=listing.listed, live=live, live_bytes=size)
    if listing.unknown and done.live == 0 and not force:
        raise BadInputError(
            f"the database refers to nothing and does not know {plural(len(listing.unknown), 'blob')} in "
            f"{store.url}: it may be the wrong one, or one that was restored",
            hint="if they are to go: fusery admin gc --force",
        )
    if dry_run:
        unknown = listing.unknown if force else ()
        done.items_ += [Removed("blob", stored.digest, stored.size) for stored in unknown]
    else:
        # A cache that fails ends the collection before anything is removed and logged.
        with suppress(StoreDeniedError):
            workspace.cache.sweep()
        end_claims(database)
        drop_orphans(database)
    for stored in listing.dead:
        size = stored.size if dry_run else store.delete(stored.digest, generation=stored.generation)
        if size:
            done.items_.append(Removed("generation", blob_name(stored.digest, stored.generation), size))
    if (listing.unknown or listing.ahead) and not dry_run:
        with database.write() as session:
            adoption_time = started - timedelta(seconds=min(grace, 1e9)) if force else None
            _adopt(session, listing, adoption_time or database.utcnow(session))
    done.items_ += marking.plan() if dry_run else marking.run()
    left, waiting = _abandoned(database, store, grace)
    for leftover in left:
        size = leftover.size if dry_run else store.remove_leftover(leftover.name)
        done.items_.append(Removed("leftover", leftover.name, size))
    if done.items_ and not dry_run:
        detail = {"removed": done.removed, "freed_bytes": done.freed_bytes}
        with database.write() as session:
            registry = session.get_one(tables.RegistryRow, 1).store_id
            events.record(session, "store.collected", "registry", registry, detail)
    if listing.unknown and not force:
        number = plural(len(listing.unknown), "blob")
        done.notes.append(f"{number} that the database did not know: kept until the next collection")
    if listing.ahead:
        number = plural(len(listing.ahead), "blob")
        done.notes.append(f"{number} newer than the database; run: fusery audit --repair")
    if waiting:
        total = shown_size(sum(left.size for left in waiting))
        done.notes.append(
            f"{plural(len(waiting), 'unfinished write')} of {total}: kept, as somebody may be at work; a day after its "
            "last byte it goes in any case"
        )
    for damaged in store.quarantined():
        done.quarantined += 1
        done.quarantined_bytes += damaged.size
    return done


def _unreferenced(before: datetime, dead: Several[str]) -> Select[BlobRow]:
    """Return the query for blobs that may go: no reference, no claim, and older; what another collector has marked belongs to them."""
    waiting = BlobRow.state.in_(("pending", "ready")) & (BlobRow.created_at <= before)
    runs = (IntentRow.expires >= Database.clock()) & IntentRow.owner.not_in(sorted(dead))
    claim = exists().where(IntentRow.digest == BlobRow.digest, runs)
    query = select(BlobRow).where(or_(waiting, BlobRow.state == "deleting"), ~is_referenced(), ~claim)
    return query.order_by(BlobRow.digest)


class Marking:
    """One pass over the blobs that nothing refers to, batch by batch; `started` is on the database's clock."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        *,
        grace: float,
        started: datetime,
        tombstone: float = TOMBSTONE,
        batch: int = BATCH,
    ) -> None:
        self._database, self._store = database, store
        self._before = started - timedelta(seconds=min(grace, 1e9))
        self._tombstone, self._batch = tombstone, batch

    def plan(self) -> list[Removed]:
        """Return what would go, without changing anything."""
        with self._database.read() as session:
            rows = session.scalars(_unreferenced(self._before, dead_owners(session)))
            return [Removed("blob", row.digest, row.size) for row in rows]

    def run(self) -> Iterator[Removed]:
        """Delete what may go; yield what went."""
        candidates = [Digest(item.name) for item in self.plan()]
        for start in range(0, len(candidates), self._batch):
            marked = self.mark(candidates[start : start + self._batch])
            gone = self.delete(marked)
            self.strike(marked)
            yield from gone

    def mark(self, candidates: Sequence[Digest]) -> Sequence[Stored]:
        """Put tombstones on those that may still go, in one write transaction; return them."""
        with self._database.write() as session:
            query = _unreferenced(self._before, dead_owners(session)).where(BlobRow.digest.in_(candidates))
            rows = list(session.scalars(query))
            expires = Database.utcnow(session).timestamp() + self._tombstone
            for row in rows:
                row.state, row.tomb_expires = "deleting", expires
            return [Stored(Digest(row.digest), row.size, row.generation) for row in rows]

    def delete(self, marked: Sequence[Stored]) -> list[Removed]:
        """Delete the bytes; what is gone already is fine and not returned."""
        freed = [(blob, self._store.delete(blob.digest, generation=blob.generation)) for blob in marked]
        return [Removed("blob", blob.digest, size) for blob, size in freed if size]

    def strike(self, marked: Sequence[Stored]) -> None:
        """Record that the bytes are gone, of those that are still ours."""
        with self._database.write() as session:
            for blob in marked:
                # Somebody who waited for the tombstone to run out has raised the generation, and owns the row now.
                ours = (BlobRow.digest == blob.digest) & (BlobRow.generation == blob.generation)
                statement = (
                    update(BlobRow)
                    .where(ours, BlobRow.state == "deleting")
                    .values(state="absent", generation=BlobRow.generation + 1, tomb_expires=None)
                )
                session.execute(statement, execution_options={"synchronize_session": False})


@dataclass(slots=True)
class Listing:
    """A store, held against the database."""

    listed: int = 0
    dead: list[Stored] = field(default_factory=list)  # generations that were deleted or given up once
    unknown: list[Stored] = field(default_factory=list)  # no row stands for them
    ahead: list[Stored] = field(default_factory=list)  # later than their row: the database is older


def _survey(database: Database, store: BlobStore) -> Listing:
    listing, names = Listing(), store.blobs()
    while batch := list(islice(names, 500)):
        with database.read() as session:
            query = select(BlobRow.digest, BlobRow.generation)
            rows = session.execute(query.where(BlobRow.digest.in_([stored.digest for stored in batch])))
            recorded = dict(rows.all())
        listing.listed += len(batch)
        for stored in batch:
            generation = recorded.get(stored.digest)
            if generation is None:
                listing.unknown.append(stored)
            elif stored.generation < generation:
                listing.dead.append(stored)
            elif stored.generation > generation:
                listing.ahead.append(stored)
    return listing


def _adopt(session: Session, listing: Listing, at: datetime) -> None:
    """Give a row to blobs that have none, so that they can be collected; referenced ones are left to `audit --repair`."""
    for stored in sorted([*listing.unknown, *listing.ahead], key=lambda stored: stored.generation):
        row = session.get(BlobRow, stored.digest)
        if row is None:
            values = {"digest": stored.digest, "size": stored.size, "generation": stored.generation}
            session.add(BlobRow(**values, state="pending", created_at=at))
            session.flush()
        elif stored.generation > row.generation:
            session.execute(
                update(BlobRow)
                .where(BlobRow.digest == stored.digest, ~is_referenced())
                .values(generation=stored.generation, state="pending", created_at=at, tomb_expires=None)
            )


def _abandoned(database: Database, store: BlobStore, grace: float) -> tuple[list[Leftover], list[Leftover]]:
    """Return the leftovers to remove, and those that a running command may still write: for a day after their last byte."""
    leftovers = list(store.leftovers())
    if not leftovers:
        return [], []
    owners = select(IntentRow.owner).where(IntentRow.expires >= Database.clock()).distinct()
    with database.read() as session:
        busy = not dead_owners(session).issuperset(session.scalars(owners))
    going: list[Leftover] = []
    waiting: list[Leftover] = []
    for left in leftovers:
        # A file with a process's tag may belong to a running process that has not recorded its intent yet.
        waits = not is_maker_dead(left.name) if has_process_tag(left.name) else busy
        min_age = ABANDONED if waits else min(grace, ABANDONED)
        (going if left.age_seconds >= min_age else waiting).append(left)
    return going, waiting


_PARTS = (ManifestFileRow.__tablename__, TensorRow.__tablename__)  # which do not keep their manifest


def is_kept(manifest_id: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a base, adapter, fused artifact, bundle or anything else in the schema has this manifest."""
    referrers = [
        exists().where(column == manifest_id)
        for table in tables.metadata.tables.values()
        if table.name not in _PARTS
        for column in table.columns
        if any(key.column is ManifestRow.__table__.c.id for key in column.foreign_keys)
    ]
    return or_(*referrers)


def is_referenced() -> ColumnElement[bool]:
    """Tell of a row of `blob` whether a file of a manifest that is kept has its bytes."""
    files = ManifestFileRow.__table__
    return exists().where(files.c.blob == BlobRow.digest, is_kept(files.c.manifest_id))


def dead_owners(session: Session) -> set[str]:
    """Return the owners of intents that are provably gone: their time need not be waited for."""
    owners = session.scalars(select(IntentRow.owner).distinct())
    return {text for text in owners if (owner := LeaseOwner.parse(text)) is not None and owner.is_dead()}


def end_claims(database: Database) -> None:
    """Delete the intents that ran out, and those of owners that are gone.  Lease rows stay: they hold the fence."""
    with database.read() as session:
        dead = dead_owners(session)
        over = session.scalar(select(exists().where(IntentRow.expires < Database.clock())))
    if not dead and not over:
        return
    with database.write() as session:
        session.execute(delete(IntentRow).where(IntentRow.expires < Database.clock()))
        for owner in sorted(dead):
            session.execute(delete(IntentRow).where(IntentRow.owner == owner))


def drop_orphans(database: Database) -> None:
    """Delete the manifests that nothing has any more, with their files."""
    orphan = ~is_kept(ManifestRow.__table__.c.id)
    with database.read() as session:
        orphan_ids = list(session.scalars(select(ManifestRow.id).where(orphan)))
    for batch in batches(orphan_ids):
        with database.write() as session:
            # Somebody may have come to need one meanwhile.
            numbers = list(session.scalars(select(ManifestRow.id).where(ManifestRow.id.in_(batch), orphan)))
            touch(session, "manifest", numbers)
            for part in (ManifestFileRow, TensorRow):
                session.execute(delete(part).where(part.manifest_id.in_(numbers)))
            session.execute(delete(ManifestRow).where(ManifestRow.id.in_(numbers)))
