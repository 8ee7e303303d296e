"""Blobs that nothing refers to: marked in one transaction, deleted, and struck off in another (docs/internals/collection.md).

Why each part: an intent keeps off the collector from before the bytes are looked at until their record is committed;
a tombstone makes whoever comes meanwhile wait; and the generation, raised when the bytes are gone, makes a deletion
that comes late hit a name that nobody will ever use again.  Grace is a courtesy, and nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, Select, or_, select, update

from fusery.storage.digest import Digest
from fusery.storage.interface import BlobStore

from ..database import Database
from ..tables import Blob
from .collection import Removed
from .liveness import dead_owners, is_claimed, is_referenced

TOMBSTONE = 60.0
"""Seconds for which a deposit of the same bytes waits for a collector that does not come back."""

BATCH = 100
"""Blobs between two transactions: few enough to be deleted well before their tombstones run out."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A blob that is being deleted: what the row said when it was marked."""

    digest: Digest
    generation: int
    size: int


def unreferenced(before: datetime, dead: Collection[str]) -> Select[Blob]:
    """Return the query for blobs that may go: no reference, no claim, and stored before that moment.

    What another collector has marked belongs to them too, since it may have died; deleting twice does no harm.
    """
    waiting = Blob.state.in_(("pending", "ready")) & (Blob.created_at <= before)
    return (
        select(Blob)
        .where(or_(waiting, Blob.state == "deleting"), ~is_referenced(), ~is_claimed(dead))
        .order_by(Blob.digest)
    )


class Marking:
    """One pass over the blobs, batch by batch.

    Args:
        database: where blobs are on record.
        store: where they are.
        grace: seconds for which what nothing refers to is left alone.
        started: when the collection began, on the database's clock.
        tombstone: seconds for which a tombstone holds.
        batch: blobs between two transactions.
    """

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
        self._database = database
        self._store = store
        self._before = started - timedelta(seconds=min(grace, 1e9))
        self._tombstone = tombstone
        self._batch = batch

    def plan(self) -> list[Removed]:
        """Return what would go, without changing anything."""
        with self._database.read() as session:
            rows = session.scalars(unreferenced(self._before, dead_owners(session)))
            return [Removed("blob", row.digest, row.size) for row in rows]

    def run(self) -> Iterator[Removed]:
        """Delete what may go; yield what went."""
        candidates = [Digest(item.name) for item in self.plan()]
        for start in range(0, len(candidates), self._batch):
            marked = self.mark(candidates[start : start + self._batch])
            gone = self.delete(marked)
            self.strike(marked)
            yield from gone

    def mark(self, candidates: Sequence[Digest]) -> Sequence[Marked]:
        """Put tombstones on those that may still go; return them.

        They were found without holding up anybody; what counts is what is so now, while nobody else writes.
        """
        with self._database.write() as session:
            query = unreferenced(self._before, dead_owners(session)).where(Blob.digest.in_(candidates))
            rows = list(session.scalars(query))
            expires = Database.utcnow(session).timestamp() + self._tombstone
            for row in rows:
                row.state, row.tomb_expires = "deleting", expires
            return [Marked(Digest(row.digest), row.generation, row.size) for row in rows]

    def delete(self, marked: Sequence[Marked]) -> list[Removed]:
        """Delete the bytes; what is gone already is fine and not returned."""
        gone = []
        for blob in marked:
            freed = self._store.delete(blob.digest, generation=blob.generation)
            if freed:
                gone.append(Removed("blob", blob.digest, freed))
        return gone

    def strike(self, marked: Sequence[Marked]) -> int:
        """Record that the bytes are gone, of those that are still ours; return how many."""
        struck = 0
        with self._database.write() as session:
            for blob in marked:
                # Somebody who waited for the tombstone to run out has raised the generation, and owns the row now.
                statement = (
                    update(Blob)
                    .where(
                        Blob.digest == blob.digest,
                        Blob.generation == blob.generation,
                        Blob.state == "deleting",
                    )
                    .values(state="absent", generation=Blob.generation + 1, tomb_expires=None)
                )
                result = session.execute(statement, execution_options={"synchronize_session": False})
                assert isinstance(result, CursorResult)
                struck += int(result.rowcount)
        return struck
