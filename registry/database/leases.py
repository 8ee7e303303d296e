"""Leases: one process builds a key at a time, across threads, processes and machines.

The protocol, and what went wrong with others, is in docs/internals/leases.md.

The order that makes it right: take the lease, *then* look whether the thing is there, build, and publish in the same
transaction that gives the lease back.  Every take-over raises the fence, and only the newest fence can publish, so a
process that slept through its time can neither publish nor harm.  Time is the database's clock only.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import CursorResult, Update, or_, select, update
from sqlalchemy.orm import Session

from .. import tables
from ..errors import DatabaseUnavailableError, LeaseLostError
from .connection import Database
from .owner import Owner
from .upsert import insert

TTL = 120.0
"""Seconds that a lease lasts without being renewed."""

_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else holds the lease.

    Attributes:
        key: what is being built.
        owner: who builds it, or None where the row is not readable.
        remaining: seconds until the lease ends, unless it is renewed.
    """

    key: str
    owner: Owner | None
    remaining: float


class Lease:
    """The right to build one key.

    Attributes:
        key: what is being built.
        owner: who builds it.
        fence: grows by one with each holder; part of the path that is built in, so that a late process never writes
            on its successor's files.
    """

    def __init__(
        self, database: Database, key: str, owner: Owner, *, fence: int, ttl: float, since: float
    ) -> None:
        """Take the values that `acquire` found; use `acquire`."""
        self.key = key
        self.owner = owner
        self.fence = fence
        self._database = database
        self._ttl = ttl
        self._renewed = since
        self._lost = False

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Renew the lease from a thread until the block ends; after an exception, give it back.

        The thread has its own connection.  It never interrupts the block: call `check` in it.
        """
        stop = threading.Event()
        keeper = threading.Thread(
            target=self._renew_until, args=(stop,), name=f"lease {self.key[:12]}", daemon=True
        )
        keeper.start()
        try:
            yield
        except BaseException:
            _end(stop, keeper)
            with contextlib.suppress(DatabaseUnavailableError), self._database.write() as session:
                self.release(session)
            raise
        finally:
            _end(stop, keeper)

    def check(self) -> None:
        """Return if the lease certainly still holds.

        Raises:
            LeaseLostError: it was taken over, or could not be renewed for two thirds of its time.
        """
        if self._lost or _now() - self._renewed > self._ttl * 2 / 3:
            raise self._loss()

    def renew(self) -> None:
        """Extend the lease to its full time from now.

        Raises:
            LeaseLostError: it ran out or was taken over.
            DatabaseUnavailableError: the database did not answer.
        """
        asked = _now()
        extended = self._fenced().values(expires=Database.clock() + self._ttl)
        if self._database.repeat(lambda session: _rows(session, extended)) == 0:
            raise self._loss()
        self._renewed = asked

    def publish(self, session: Session) -> None:
        """Give the lease back within the write transaction that records what was built.

        Raises:
            LeaseLostError: it no longer holds, so the transaction must not be committed.
        """
        if not self.release(session):
            raise self._loss()

    def release(self, session: Session) -> bool:
        """Give the lease back; return whether it was still held.  The row stays, with its fence."""
        return _rows(session, self._fenced().values(owner="", expires=0.0)) == 1

    def _fenced(self) -> Update:
        held = tables.Lease
        return update(held).where(
            held.key == self.key,
            held.owner == str(self.owner),
            held.fence == self.fence,
            held.expires >= Database.clock(),
        )

    def _loss(self) -> LeaseLostError:
        self._lost = True
        return LeaseLostError(
            f"the right to build {self.key[:12]} was lost to another process, or ran out; nothing was published",
            hint="run the command again",
        )

    def _renew_until(self, stop: threading.Event) -> None:
        while not stop.wait(self._ttl / 3):
            # An outage may end before the lease does: `check` measures how long it has lasted.
            with contextlib.suppress(DatabaseUnavailableError):
                try:
                    self.renew()
                except LeaseLostError:
                    return


def acquire(database: Database, key: str, owner: Owner, *, ttl: float = TTL) -> Lease | Busy:
    """Take the lease on a key if it is free, has run out, or belonged to a process that is provably dead.

    Look for the finished thing only *after* this returned a lease: whoever held it before may have published.

    Raises:
        DatabaseUnavailableError: the database did not answer.
    """
    asked = _now()
    taken = database.repeat(lambda session: _take(session, key, owner, ttl))
    if isinstance(taken, Busy):
        return taken
    return Lease(database, key, owner, fence=taken, ttl=ttl, since=asked)


def wait(
    database: Database,
    key: str,
    owner: Owner,
    *,
    ttl: float = TTL,
    told: Callable[[Busy], None] | None = None,
) -> Lease:
    """Take the lease on a key, waiting for as long as others hold it.

    Args:
        database: where leases are.
        key: what is to be built.
        owner: who wants to build it.
        ttl: seconds that the lease lasts without being renewed.
        told: called once for each holder that is waited for.

    Raises:
        DatabaseUnavailableError: the database did not answer.
    """
    pause, met = 0.05, None
    while isinstance(found := acquire(database, key, owner, ttl=ttl), Busy):
        if told is not None and found.owner != met:
            told(found)
        met = found.owner
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.5, 2.0)
    return found


def _take(session: Session, key: str, owner: Owner, ttl: float) -> int | Busy:
    """Take the lease if that may be; return the fence, or who holds it."""
    fence = _take_free(session, key, owner, ttl)
    if fence is not None:
        return fence
    holder, number, remaining = session.execute(
        select(tables.Lease.owner, tables.Lease.fence, tables.Lease.expires - Database.clock()).where(
            tables.Lease.key == key
        )
    ).one()
    known = Owner.parse(holder)
    if known is None or not known.is_dead():
        return Busy(key, known, remaining)
    return _take_over(session, key, owner, ttl, number)


def _take_free(session: Session, key: str, owner: Owner, ttl: float) -> int | None:
    """Insert the row, or take it over where it has run out; return the fence, or None if somebody holds it."""
    held, expires = tables.Lease, Database.clock() + ttl
    statement = (
        insert(session, held)
        .values(key=key, owner=str(owner), fence=1, expires=expires)
        .on_conflict_do_update(
            index_elements=[held.key],
            set_={"owner": str(owner), "fence": held.fence + 1, "expires": expires},
            # Our own too: we have it if the answer to the first attempt was lost.
            where=or_(held.expires < Database.clock(), held.owner == str(owner)),
        )
        .returning(held.fence)
    )
    fence: int | None = session.scalar(statement)
    return fence


def _take_over(session: Session, key: str, owner: Owner, ttl: float, fence: int) -> int:
    values = {"owner": str(owner), "fence": fence + 1, "expires": Database.clock() + ttl}
    session.execute(update(tables.Lease).where(tables.Lease.key == key).values(values))
    return fence + 1


def _rows(session: Session, statement: Update) -> int:
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def _end(stop: threading.Event, keeper: threading.Thread) -> None:
    stop.set()
    keeper.join()


def _now() -> float:
    return time.clock_gettime(_ELAPSED)
