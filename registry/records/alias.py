"""The records of aliases: what they hold, held at a moment, and how they moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ..record import EXACT, Record, left_out
from .withdrawals import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias(Record):
    """An alias that holds an adapter.

    Attributes:
        alias: its name with that of its task, `TASK#NAME`.
        task: name of its task.
        adapter: name of the adapter that it holds.
        since: when it was set to it.
        by: who did that.
        reason: why; may be empty.
        withdrawals: what the adapter has to do with yanks that stand.
    """

    alias: str
    task: str
    adapter: str
    since: datetime = field(metadata=EXACT)
    by: str
    reason: str
    withdrawals: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasHolder(Record):
    """What an alias holds, or held at a moment.

    Attributes:
        alias: its name with that of its task, `TASK#NAME`.
        adapter: name of the adapter; None if it held none.
        digest: of the adapter.
        yanked: the adapter was withdrawn then.
        withdrawals: what the adapter had to do with yanks that stood then.
        at: the moment; None for now.
        since: when it was moved last until then.
        by: who did that.
        reason: why.
    """

    alias: str
    adapter: str | None
    digest: str | None
    yanked: bool | None
    withdrawals: tuple[Withdrawal, ...]
    at: datetime | None = field(metadata=EXACT)
    since: datetime | None = field(metadata=EXACT)
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove(Record):
    """One move of an alias.

    Attributes:
        alias: its name with that of its task, `TASK#NAME`.
        task: name of its task.
        from_: name of the adapter that it held before; None for none.
        to: name of the adapter that it held from then on; None for none.
        reason: why; may be empty.
        at: when.
        by: who moved it.
    """

    alias: str
    task: str
    from_: str | None
    to: str | None
    reason: str
    at: datetime = field(metadata=EXACT)
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(AliasMove):
    """A move that was asked for.

    Attributes:
        moved: False if the alias held the adapter already, and nothing was done.
        withdrawals: what the adapter has to do with yanks that stand; left out where an alias was taken away.
    """

    moved: bool
    withdrawals: tuple[Withdrawal, ...] | None = left_out()
