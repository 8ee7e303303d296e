"""Leases and intents: what running commands claim, on the database's clock only (docs/internals/leases.md).

Take the lease, *then* look whether the thing is there, build, and publish in the transaction that gives the lease back.  Every
take-over raises the fence, and only the newest fence can publish.  An intent says which blobs a command reads or stores, so
that the collector spares them (docs/internals/collection.md); that of a dead process expires.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import CursorResult, Update, delete, func, or_, select, update
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.processes import is_maker_dead, process_tag

from .. import tables
from ..actors import user_name
from ..errors import DatabaseUnavailableError, LeaseLostError
from ..tables import IntentRow
from .connection import Database
from .engine import batches, insert

_FORM = re.compile(
    r"(?P<user>[^:@]*)@(?P<host>[^:@]*):(?P<process>[0-9]{1,20}-[0-9]{0,20}-[0-9a-f]{12}):(?P<token>[0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """A process, by its `process_tag`, that holds something in the database: a text of at most 200 characters."""

    user: str
    host: str
    process: str
    token: str

    @classmethod
    def current(cls) -> LeaseOwner:
        """Return an owner for this process, a new one at each call."""
        return cls(_plain(user_name(), 32), _plain(socket.gethostname(), 48), process_tag(), uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: str) -> LeaseOwner | None:
        """Return the owner that `str` wrote, or None for anything else."""
        match = _FORM.fullmatch(text)
        return None if match is None else cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.process}:{self.token}"

    @property
    def description(self) -> str:
        """Who this is, for people: `ann@gpu3 (process 4711)`."""
        return f"{self.user}@{self.host} (process {self.process.partition('-')[0]})"

    def is_dead(self) -> bool:
        """Tell whether the process is provably gone: it ran in this run of this kernel, in this process namespace."""
        return is_maker_dead(self.process)


def _plain(text: str, limit: int) -> str:
    return re.sub(r"[^\w.+-]", "-", text)[:limit]


TTL = 120.0  # seconds that a lease lasts without being renewed

_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


class Lease:
    """The right to build one key; its fence, part of the path that is built in, grows by one with each holder."""

    def __init__(
        self, database: Database, key: str, owner: LeaseOwner, *, fence: int, ttl: float, since: float
    ) -> None:
        self.key, self.owner, self.fence = key, owner, fence
        self._database, self._ttl, self._renewed, self._lost = database, ttl, since, False

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Renew the lease from a thread until the block ends, which calls `check`; after an exception, give it back."""
        try:
            with repeated(self.renew, self._ttl / 3, f"lease {self.key[:12]}"):
                yield
        except BaseException:
            with contextlib.suppress(DatabaseUnavailableError), self._database.write() as session:
                self.release(session)
            raise

    def check(self) -> None:
        """Raise `LeaseLostError` if it was taken over, or could not be renewed for two thirds of its time."""
        if self._lost or _now() - self._renewed > self._ttl * 2 / 3:
            raise self._loss()

    def renew(self) -> None:
        """Extend the lease to its full time from now; `check` tells whether it was lost, or for how long an outage lasts."""
        asked = _now()
        extended = self._fenced().values(expires=Database.clock() + self._ttl)
        if not self._lost and self._database.repeat(lambda session: _rows(session, extended)):
            self._renewed = asked
        else:
            self._lost = True

    def publish(self, session: Session) -> None:
        """Give the lease back in the transaction that records what was built; raise `LeaseLostError` if it no longer holds."""
        if not self.release(session):
            raise self._loss()

    def release(self, session: Session) -> bool:
        """Give the lease back; return whether it was still held.  The row stays, with its fence."""
        return _rows(session, self._fenced().values(owner="", expires=0.0)) == 1

    def _fenced(self) -> Update:
        held = tables.LeaseRow
        return update(held).where(
            held.key == self.key,
            held.owner == str(self.owner),
            held.fence == self.fence,
            held.expires >= Database.clock(),
        )

    def _loss(self) -> LeaseLostError:
        self._lost = True
        problem = f"the lease on {self.key[:12]} was lost, or ran out; nothing was published"
        return LeaseLostError(problem, hint="run the command again")


@contextlib.contextmanager
def repeated(work: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Do some work again and again in a thread until the block ends; a database that does not answer is asked next time."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            with contextlib.suppress(DatabaseUnavailableError):
                work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def acquire(database: Database, key: str, owner: LeaseOwner, *, ttl: float = TTL) -> Lease | str:
    """Take a free lease or that of a dead owner, or return who holds it; look for the finished result only afterwards."""
    asked = _now()
    taken = database.repeat(lambda session: _take(session, key, owner, ttl))
    if isinstance(taken, str):
        return taken
    return Lease(database, key, owner, fence=taken, ttl=ttl, since=asked)


def wait(
    database: Database,
    key: str,
    owner: LeaseOwner,
    *,
    on_busy: Callable[[str], None] | None = None,
) -> Lease:
    """Take the lease on a key, waiting for as long as others hold it."""
    pause, met = 0.05, None
    while isinstance(taken := acquire(database, key, owner), str):
        if on_busy is not None and taken != met:
            on_busy(taken)
        met = taken
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.5, 2.0)
    return taken


def _take(session: Session, key: str, owner: LeaseOwner, ttl: float) -> int | str:
    """Insert the row of a lease, or take it over where it has run out or its owner is dead; return the fence, or who holds it."""
    held, expires = tables.LeaseRow, Database.clock() + ttl
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
    if (fence := session.scalar(statement)) is not None:
        return int(fence)
    holder, number = session.execute(select(held.owner, held.fence).where(held.key == key)).one()
    lease_holder = LeaseOwner.parse(holder)
    if lease_holder is None:  # written by another version, or changed
        return "another process"
    if not lease_holder.is_dead():
        return lease_holder.description
    values = {"owner": str(owner), "fence": number + 1, "expires": expires}
    session.execute(update(held).where(held.key == key).values(values))
    return int(number) + 1


def _rows(session: Session, statement: Update) -> int:
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def _now() -> float:
    return time.clock_gettime(_ELAPSED)


LONGEST = 86400.0  # seconds after which every claim and every lease has ended, unless it is extended

INTENT_TTL = 3600.0  # seconds that an intent lasts; generous, since it costs only disk space


class Intents:
    """The intents of one piece of work; its owner has a token of its own, so that two of one process do not end each other's."""

    def __init__(self, database: Database, owner: LeaseOwner, *, ttl: float = INTENT_TTL) -> None:
        self.owner = str(replace(owner, token=uuid.uuid4().hex))
        self._database = database
        self._ttl = ttl

    def claim(self, session: Session, digests: Iterable[Digest]) -> None:
        """Insert intents on blobs, or extend them."""
        claim(session, digests, self.owner, self._ttl)

    def are_alive(self, session: Session, digests: Sequence[Digest]) -> bool:
        """Tell whether every one of these blobs still has an intent of ours that has not run out."""
        alive = 0
        for batch in batches(digests):
            query = select(func.count()).select_from(IntentRow)
            query = query.where(IntentRow.owner == self.owner, IntentRow.digest.in_(batch))
            alive += session.scalar(query.where(IntentRow.expires >= Database.clock())) or 0
        return alive == len(set(digests))

    def drop(self, session: Session) -> None:
        """Delete all of them."""
        session.execute(delete(IntentRow).where(IntentRow.owner == self.owner))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Extend those that are there from a thread until the block ends, well before they run out."""
        ours = update(IntentRow).where(IntentRow.owner == self.owner)
        extended = ours.values(expires=Database.clock() + self._ttl)

        def extend() -> None:
            # A recording checks `are_alive` first, so a missed extension does no harm.
            with self._database.write() as session:
                session.execute(extended, execution_options={"synchronize_session": False})

        with repeated(extend, self._ttl / 3, "intents"):
            yield


def claim(session: Session, digests: Iterable[Digest], owner: str, ttl: float) -> None:
    """Insert intents on blobs for an owner, or extend them to so many seconds from now."""
    end = Database.clock() + ttl
    for batch in batches(digests):
        rows = [{"digest": digest, "owner": owner, "expires": end} for digest in batch]
        key, statement = ["digest", "owner"], insert(session, IntentRow).values(rows)
        session.execute(statement.on_conflict_do_update(index_elements=key, set_={"expires": end}))


def release(session: Session, digests: Iterable[Digest], owner: str) -> None:
    """Delete an owner's intents on blobs."""
    for batch in batches(digests):
        session.execute(delete(IntentRow).where(IntentRow.owner == owner, IntentRow.digest.in_(batch)))


@contextlib.contextmanager
def reading(
    database: Database, digests: Iterable[Digest], owner: LeaseOwner, *, ttl: float = INTENT_TTL
) -> Iterator[None]:
    """Keep the collector off the blobs that the block reads; if it was faster, the read fails like that of a missing blob."""
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
