"""The record of a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described
from .withdrawal import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Record):
    """Something that runs somewhere, or ran there."""

    place: str = described("where, in the words of whoever recorded it")
    kind: str = described("kind of what runs: `adapter`, `fused` or `bundle`")
    name: str = described("its name", heading="runs")
    digest: str = described("its digest", cell="{:.12}")
    id: str = described("id of its node in the lineage")
    yanked: str | None = described("why the adapter that runs there is yanked itself; None if it is not")
    withdrawals: tuple[Withdrawal, ...] = described(
        "yanks that concern it", heading="state", free=True, rare=True
    )
    note: str | None = described("for people", free=True)
    at: datetime = described("since when", heading="since")
    by: str = described("who recorded it")
    ended_at: datetime | None = described("until when; None if it runs still", heading="until")
    ended_by: str | None = described("who recorded that")
    via: str | None = described(
        "what keeps it up to date: `sync`, or a server's resolver; None where somebody said so"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed(Deployment):
    """A deployment that was recorded."""

    changed: bool = described("something else is on record than before")
    ended: tuple[Deployment, ...] = described(
        "what ran there before, and does not any more; empty unless it was to be replaced"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Record):
    """That something was not let run somewhere, which only the log keeps."""

    place: str = described("where")
    kind: str = described("kind of what was refused: `adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("its digest")
    reason: str = described("why")
    via: str | None = described("what refused it; None where somebody said so")
    at: datetime = described("when")
    by: str = described("who recorded it")
