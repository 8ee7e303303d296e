"""How much another registry may say of one thing: its rows are counted before they are read, since there may be any number.

What is refused here could not be sent either; the limits are far above what training leaves.
"""

from __future__ import annotations

from sqlalchemy import String, Table, cast, func, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.sealing import KINDS
from ..errors import BadInputError
from ..tables.values import kind_of

MOST_ROWS = 200_000
"""Rows of one table that belong to one thing."""

MOST_TEXT = 64 << 20
"""Characters in those rows."""

MOST_ADAPTERS = 20_000
"""Adapters that go at once: versions of a task, and what they are derived from."""

_ALSO: dict[str, dict[Table, str]] = {
    "base": {KINDS["calibration"].table: "base_id"},
    "adapter": {KINDS["yank"].table: "adapter_id", KINDS["evaluation"].table: "adapter_id"},
}
"""What is read with a thing, and is a record of its own."""


def require_few(session: Session, kind: str, number: int, manifest: int) -> None:
    """Refuse a thing with more rows, or more text in them, than can be read.

    Args:
        session: of any transaction of the registry it comes from.
        kind: of the record.
        number: primary key of its row.
        manifest: that of its manifest's.

    Raises:
        BadInputError: there are too many.
    """
    parts = {**KINDS[kind].parts, **_ALSO.get(kind, {})}
    found = [(table, column, number) for table, column in parts.items()]
    found += [(KINDS[kind].table, "id", number), (KINDS["manifest"].table, "id", manifest)]
    found += [(table, column, manifest) for table, column in KINDS["manifest"].parts.items()]
    for table, column, key in found:
        texts = [cast(one, String) for one in table.columns if kind_of(one) in ("text", "document")]
        lengths = [func.coalesce(func.sum(func.length(text)), 0) for text in texts]
        counts = session.execute(select(func.count(), *lengths).where(table.c[column] == key)).one()
        if counts[0] > MOST_ROWS or sum(counts[1:]) > MOST_TEXT:
            raise BadInputError(
                f"the {kind} in row {number} has more to say than can be read: {counts[0]:,} rows of {table.name} with "
                f"{sum(counts[1:]):,} characters",
                hint="ask the owner of that registry what is in it",
            )


def require_short_log(session: Session, kind: str, subject: str, entries: int) -> None:
    """Refuse a thing of which the newest entries of the log hold more text than can be taken along.

    Raises:
        BadInputError: they do.
    """
    event = tables.Event
    newest = (
        select(event.detail, event.seals)
        .where(event.subject_kind == kind, event.subject == subject)
        .order_by(event.seq.desc())
        .limit(entries)
        .subquery()
    )
    lengths = func.length(newest.c.detail) + func.length(func.coalesce(newest.c.seals, ""))
    total = session.scalar(select(func.coalesce(func.sum(lengths), 0)))
    if total is None or total > MOST_TEXT:
        raise BadInputError(
            f"the log says more of the {kind} {subject[:80]} than can be read: {total:,} characters",
            hint="ask the owner of that registry what is in it",
        )
