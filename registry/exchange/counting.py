"""How much of the log goes with a record: entries are counted before they are read, since there may be any number."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches

MOST_TEXT = 64 << 20
"""Characters in the entries that are read at once."""

MOST_LOG = 1 << 20
"""Characters in the entries of the log that go with one thing; older entries stay behind."""

MOST_ADAPTERS = 20_000
"""Adapters that go at once: versions of a task, and what they are derived from."""


def have_short_logs(session: Session, kind: str, subjects: Iterable[str], entries: int) -> bool:
    """Tell whether all that the log says of some things can be read at once: few entries of each, and little text."""
    event, total = tables.Event, 0
    length = func.length(event.detail) + func.length(func.coalesce(event.seals, ""))
    for some in batches(subjects):
        counted = (
            select(func.count(), func.sum(length))
            .where(event.subject_kind == kind, event.subject.in_(some))
            .group_by(event.subject)
        )
        for count, characters in session.execute(counted):
            total += characters
            if count > entries or total > MOST_TEXT:
                return False
    return True


def count_entries(session: Session, kind: str, subject: str, entries: int) -> int:
    """Return how many entries of the log go with a thing: the newest ones, up to a number and a length of text."""
    event = tables.Event
    length = func.length(event.detail) + func.length(func.coalesce(event.seals, ""))
    query = select(length).where(event.subject_kind == kind, event.subject == subject)
    return count_short(session.scalars(query.order_by(event.seq.desc()).limit(entries)))


def count_short(lengths: Iterable[int]) -> int:
    """Return how many log entries about a record travel, given the lengths of their texts, newest first.

    The newest entry always travels: its hash is checked, so that a forged one is reported and not left out.
    """
    return sum(number == 0 or total <= MOST_LOG for number, total in enumerate(accumulate(lengths)))
