"""The append-only log: one entry for everything that changed, each bound to the one before by a hash.

What is hashed, exactly: the canonical JSON (`storage.digest.canonical_json`: sorted keys, no spaces, ASCII) of one
object with the keys

    action, actor, at, detail, previous, seals, seq, subject, subject_kind

where `seq` is a number and everything else a string: `at` is the moment in UTC as `YYYY-MM-DDTHH:MM:SS.ffffff+00:00`,
`detail` and `seals` the entry's texts as they are stored (themselves canonical JSON; without seals there is no such
key), and `previous` the hash of the entry with `seq - 1`,
64 zeros for the first.  The hash is the SHA-256 of those bytes, in hex.

So an entry that is changed, removed from the middle or put in shows up at once.  A log whose end was cut off, or that
was written anew as a whole, shows up only against a hash that was noted down elsewhere: `last` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import canonical_json
from fusery.storage.secrets import without_credentials

from ..tables import Event
from . import Database
from .actions import ACTIONS
from .log import FIRST_PREVIOUS, append, event_hash, last, parse_seals

__all__ = ["FIRST_PREVIOUS", "Problem", "event_hash", "history", "last", "record", "verify_chain"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the log.

    Attributes:
        seq: number of the entry where it shows.
        message: what is wrong, in one sentence.
    """

    seq: int
    message: str


def record(
    session: Session,
    *,
    action: str,
    kind: str,
    subject: str,
    detail: Mapping[str, Any],
    actor: str,
    at: datetime | None = None,
) -> Event:
    """Append one entry, in the write transaction that does what it tells of; it has its number when that is committed.

    Args:
        session: of a write transaction, which makes this the only writer.
        action: what was done: one of `actions.ACTIONS`.
        kind: what it was done to: `adapter`, `base`, `alias` …
        subject: its name or digest.
        detail: more, as far as JSON can say it; credentials in its URLs are left out.
        actor: who did it.
        at: when; the database's clock says it if it is not given.

    Raises:
        ValueError: the detail holds a NaN or an infinity, or there is no such action.
    """
    if action not in ACTIONS:
        raise ValueError(f"the action {action!r} is not declared in `fusery.registry.database.actions`")
    entry = Event(
        at=(at or Database.utcnow(session)).astimezone(UTC),
        actor=actor,
        action=action,
        subject_kind=kind,
        subject=subject,
        detail=canonical_json(without_credentials(detail)).decode("ascii"),
    )
    append(session, entry)
    return entry


def verify_chain(session: Session) -> Iterator[Problem]:
    """Yield what is wrong with the log, from its beginning, in memory that does not grow with it."""
    seq, previous = 0, FIRST_PREVIOUS
    for number, event in _all(session):
        if event is None:
            yield Problem(number, f"entry {number} is not readable: its time is none")
            continue
        if event.seq != seq + 1:
            yield Problem(event.seq, f"the log jumps from entry {seq} to entry {event.seq}")
        elif event.previous != previous:
            yield Problem(event.seq, f"entry {event.seq} does not follow from entry {seq}")
        if not _is_as_written(event):
            yield Problem(event.seq, f"entry {event.seq} was changed after it was written")
        elif not _is_well_spelled(event):
            yield Problem(event.seq, f"entry {event.seq} has details or seals that fusery does not write so")
        seq, previous = event.seq, event.hash


def _is_as_written(event: Event) -> bool:
    try:
        return event.hash == event_hash(event)
    except TypeError:  # SQLite keeps bytes where somebody put them instead of a text
        return False


def _is_well_spelled(event: Event) -> bool:
    try:
        if event.seals is not None:
            parse_seals(event.seals)
        return canonical_json(json.loads(event.detail)).decode("ascii") == event.detail
    except (ValueError, RecursionError):
        return False


def history(
    session: Session,
    *,
    kind: str | None = None,
    subject: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return entries, oldest first; with a limit, the newest ones.

    Args:
        session: of any transaction.
        kind: only about this kind of thing.
        subject: only about this name or digest.
        action: only of this action.
        since: only from this moment on.
        limit: at most so many.
    """
    query = select(Event).order_by(Event.seq.desc()).limit(limit)
    wanted = {Event.subject_kind: kind, Event.subject: subject, Event.action: action}
    for column, value in wanted.items():
        if value is not None:
            query = query.where(column == value)
    if since is not None:
        query = query.where(Event.at >= since)
    return list(reversed(session.scalars(query).all()))


def _all(session: Session) -> Iterator[tuple[int, Event | None]]:
    """Yield every entry by its number, and let go of each; None where somebody wrote a time that cannot be parsed."""
    seq, more = 0, True
    while more:
        numbers = session.scalars(
            select(Event.seq).where(Event.seq > seq).order_by(Event.seq).limit(_BATCH)
        ).all()
        more = len(numbers) == _BATCH
        seq = numbers[-1] if numbers else seq
        yield from _read(session, numbers)


def _read(session: Session, numbers: Sequence[int]) -> Iterator[tuple[int, Event | None]]:
    query = select(Event).where(Event.seq.in_(numbers)).execution_options(populate_existing=True)
    try:
        found = {event.seq: event for event in session.scalars(query)}
    except ValueError:
        if len(numbers) == 1:
            found = {}
        else:
            middle = len(numbers) // 2
            yield from _read(session, numbers[:middle])
            yield from _read(session, numbers[middle:])
            return
    for number in numbers:
        yield number, found.get(number)
