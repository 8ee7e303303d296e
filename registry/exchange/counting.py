"""How much another registry may say of one thing: its rows are counted before they are read, since there may be any number.

What is refused here could not be sent either; the limits are far above what training leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from sqlalchemy import String, Table, cast, func, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches
from ..database.sealing import KINDS
from ..errors import BadInputError
from ..tables.values import kind_of

MOST_ROWS = 200_000
"""Rows of one table that belong to one thing."""

MOST_TEXT = 64 << 20
"""Characters in those rows."""

MOST_LOG = 1 << 20
"""Characters in the entries of the log that go with one thing; older entries stay behind."""

MOST_ADAPTERS = 20_000
"""Adapters that go at once: versions of a task, and what they are derived from."""

_ALSO: dict[str, dict[Table, str]] = {
    "base": {KINDS["calibration"].table: "base_id"},
    "adapter": {KINDS["yank"].table: "adapter_id", KINDS["evaluation"].table: "adapter_id"},
}
"""What is read with a thing, and is a record of its own."""


def require_few(session: Session, kind: str, manifests: Mapping[int, int]) -> None:
    """Refuse things with more rows, or more text in them, than can be read.

    Args:
        session: of any transaction of the registry they come from.
        kind: of the records.
        manifests: primary keys of their rows, each with that of its manifest's.

    Raises:
        BadInputError: one of them has too many.
    """
    parts = {**KINDS[kind].parts, **_ALSO.get(kind, {})}
    found = [(table, column, manifests.keys()) for table, column in parts.items()]
    found.append((KINDS[kind].table, "id", manifests.keys()))
    theirs = dict.fromkeys(manifests.values())
    found.append((KINDS["manifest"].table, "id", theirs.keys()))
    found += [(table, column, theirs.keys()) for table, column in KINDS["manifest"].parts.items()]
    for table, column, numbers in found:
        texts = [cast(one, String) for one in table.columns if kind_of(one) in ("text", "document")]
        lengths = [func.coalesce(func.sum(func.length(text)), 0) for text in texts]
        key = table.c[column]
        for some in batches(numbers):
            counted = select(key, func.count(), *lengths).where(key.in_(some)).group_by(key)
            for number, count, *characters in session.execute(counted):
                if count > MOST_ROWS or sum(characters) > MOST_TEXT:
                    raise BadInputError(
                        f"the {kind} with {table.name} {number} has more to say than can be read: {count:,} rows of "
                        f"{table.name} with {sum(characters):,} characters",
                        hint="ask the owner of that registry what is in it",
                    )


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
