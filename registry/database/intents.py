"""Intents: what a running command says about the blobs it reads or stores, so that the collector spares them.

An intent is a row with an owner and an expiry on the database's clock.  It binds nobody else, and one that a dead process
leaves expires.  docs/internals/collection.md has the protocol.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from ..errors import DatabaseUnavailableError
from ..tables import Intent
from .connection import Database
from .owner import Owner
from .upsert import insert

LONGEST = 86400.0
"""Seconds after which every claim and every lease has ended, unless it is extended."""

TTL = 3600.0
"""Seconds that an intent lasts without being renewed: generous, since it costs nobody anything but disk space."""

_BATCH = 500  # values in one IN list; SQLite and PostgreSQL both take more


class Intents:
    """The intents of one piece of work.

    Attributes:
        owner: who works, with a token of its own, so that two pieces of work of one process do not end each other's.
    """

    def __init__(self, database: Database, owner: Owner, *, ttl: float = TTL) -> None:
        """Prepare without any intent yet."""
        self.owner = str(replace(owner, token=uuid.uuid4().hex))
        self._database = database
        self._ttl = ttl

    def claim(self, session: Session, digests: Iterable[Digest]) -> None:
        """Insert intents on blobs, or extend them."""
        claim(session, digests, self.owner, self._ttl)

    def are_alive(self, session: Session, digests: Sequence[Digest]) -> bool:
        """Tell whether every one of these blobs still has an intent of ours that has not run out."""
        alive = 0
        for batch in _batches(digests):
            query = select(func.count()).select_from(Intent)
            query = query.where(Intent.owner == self.owner, Intent.digest.in_(batch))
            alive += session.scalar(query.where(Intent.expires >= Database.clock())) or 0
        return alive == len(set(digests))

    def drop(self, session: Session) -> None:
        """Delete all of them."""
        session.execute(delete(Intent).where(Intent.owner == self.owner))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Extend those that are there from a thread until the block ends, well before they run out."""
        stop = threading.Event()
        keeper = threading.Thread(target=self._extend_until, args=(stop,), name="intents", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()

    def _extend_until(self, stop: threading.Event) -> None:
        extended = (
            update(Intent).where(Intent.owner == self.owner).values(expires=Database.clock() + self._ttl)
        )
        while not stop.wait(self._ttl / 3):
            # Whoever records something asks `are_alive` first, so a miss does no harm here.
            with contextlib.suppress(DatabaseUnavailableError), self._database.write() as session:
                session.execute(extended, execution_options={"synchronize_session": False})


def claim(session: Session, digests: Iterable[Digest], owner: str, ttl: float) -> None:
    """Insert intents on blobs for an owner, or extend them to so many seconds from now."""
    end = Database.clock() + ttl
    for batch in _batches(list(digests)):
        rows = [{"digest": digest, "owner": owner, "expires": end} for digest in batch]
        statement = insert(session, Intent).values(rows)
        session.execute(
            statement.on_conflict_do_update(index_elements=["digest", "owner"], set_={"expires": end})
        )


def release(session: Session, digests: Iterable[Digest], owner: str) -> None:
    """Delete an owner's intents on blobs."""
    for batch in _batches(list(digests)):
        session.execute(delete(Intent).where(Intent.owner == owner, Intent.digest.in_(batch)))


@contextlib.contextmanager
def reading(
    database: Database, digests: Iterable[Digest], owner: Owner, *, ttl: float = TTL
) -> Iterator[None]:
    """Keep the collector off the blobs that the block reads.

    An intent that comes after the collector's decision is too late; the read then fails as any missing blob does.

    Raises:
        DatabaseUnavailableError: the database did not answer.
    """
    intents = Intents(database, owner, ttl=ttl)
    wanted = list(digests)
    database.repeat(lambda session: intents.claim(session, wanted))
    try:
        with intents.kept():
            yield
    finally:
        # They run out by themselves; an outage here must not hide what the block has done.
        with contextlib.suppress(DatabaseUnavailableError), database.write() as session:
            intents.drop(session)


def _batches(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    unique = sorted(set(digests))
    for start in range(0, len(unique), _BATCH):
        yield unique[start : start + _BATCH]
