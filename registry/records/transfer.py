"""What a package brings to a registry, and how much of its bytes is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..record import Record
from .withdrawal import Withdrawal

State = Literal["copied", "completed", "present", "left out"]


@dataclass(frozen=True, slots=True)
class Moved(Record):
    """One thing of a package.

    Attributes:
        kind: `base`, `calibration`, `adapter` or `fused`.
        name: what it is called where it comes from.
        there: what it is called where it goes.
        digest: of its manifest.
        state: `copied`; `completed`, where only something that came later was missing; `present`; or `left out`.
        bytes: of files that were missing.
        reason: why it was left out, or that it was amended otherwise there.
        withdrawals: the yanks that concern it, where it went to.
    """

    kind: str
    name: str
    there: str
    digest: str
    state: State
    bytes: int
    reason: str | None = None
    withdrawals: tuple[Withdrawal, ...] = ()

    def with_withdrawals(self, told: tuple[Withdrawal, ...]) -> Moved:
        """Return it with the yanks that concern it."""
        return replace(self, withdrawals=told)


@dataclass(frozen=True, slots=True)
class Arrived(Record):
    """How much of a blob has arrived.

    Attributes:
        digest: of the blob.
        complete: all of it is in the store.
        bytes: how many of an upload that can be gone on with, by the same sender.
    """

    digest: str
    complete: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class PackagePlan(Record):
    """What would become of a package, and which bytes of it are wanted.

    Attributes:
        registry: id of the registry that would receive it.
        items_: what would become of each thing.
        blobs: those that its things need, and how much of each has arrived.
    """

    registry: str
    items_: tuple[Moved, ...]
    blobs: tuple[Arrived, ...]


@dataclass(frozen=True, slots=True)
class PackageTaken(Record):
    """What became of a package.

    Attributes:
        registry: id of the registry that has received it.
        items_: what became of each thing.
    """

    registry: str
    items_: tuple[Moved, ...]
