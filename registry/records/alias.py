"""The records of aliases: what they hold, held at a moment, and how they moved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described
from .withdrawal import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias(Record):
    """An alias that holds an adapter."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    task: str = described("name of its task")
    adapter: str = described("name of the adapter that it holds")
    since: datetime = described("when it was set to it", exact=True)
    by: str = described("who did that")
    reason: str = described("why; may be empty", free=True)
    withdrawals: tuple[Withdrawal, ...] = described(
        "yanks that concern the adapter", heading="state", free=True, rare=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasHolder(Record):
    """What an alias holds, or held at a moment."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    adapter: str | None = described("name of the adapter; None if it held none")
    digest: str | None = described("digest of the adapter")
    yanked: bool | None = described("the adapter was withdrawn then")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concerned the adapter then")
    at: datetime | None = described("the moment; None for now", exact=True)
    since: datetime | None = described("when it was moved last until then", exact=True)
    by: str | None = described("who did that")
    reason: str | None = described("why")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove(Record):
    """One move of an alias."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    task: str = described("name of its task")
    from_: str | None = described("name of the adapter that it held before; None for none", title="from")
    to: str | None = described("name of the adapter that it held from then on; None for none")
    reason: str = described("why; may be empty", free=True)
    at: datetime = described("when", exact=True)
    by: str = described("who moved it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(AliasMove):
    """A move that was asked for."""

    moved: bool = described("False if the alias held the adapter already, and nothing was done")
    withdrawals: tuple[Withdrawal, ...] | None = described(
        "yanks that concern the adapter; omitted if the alias was removed",
        optional=True,
    )
