"""The record of a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record
from .withdrawals import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Record):
    """Something that runs somewhere, or ran there.

    Attributes:
        place: where, in the words of whoever recorded it.
        kind: what runs: `adapter`, `fused` or `bundle`.
        name: of that.
        digest: of that.
        id: of that in the lineage.
        yanked: why the adapter that runs there is yanked itself; None if it is not.
        withdrawals: what it has to do with yanks that stand.
        note: for people.
        at: since when.
        by: who recorded it.
        ended_at: until when; None if it runs still.
        ended_by: who recorded that.
        via: what keeps it up to date: `sync`, or a server's resolver; None where somebody said so.
    """

    place: str
    kind: str
    name: str
    digest: str
    id: str
    yanked: str | None
    withdrawals: tuple[Withdrawal, ...]
    note: str | None
    at: datetime
    by: str
    ended_at: datetime | None
    ended_by: str | None
    via: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed(Deployment):
    """A deployment that was recorded.

    Attributes:
        changed: something else is on record than before.
        ended: what ran there before, and does not any more; empty unless it was to be replaced.
    """

    changed: bool
    ended: tuple[Deployment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Record):
    """That something was not let run somewhere, which only the log keeps.

    Attributes:
        place: where.
        kind: what was refused: `adapter`, `fused` or `bundle`.
        name: of that.
        digest: of that.
        reason: why.
        via: what refused it; None where somebody said so.
        at: when.
        by: who recorded it.
    """

    place: str
    kind: str
    name: str
    digest: str
    reason: str
    via: str | None
    at: datetime
    by: str
