"""Records of package transfers and uploads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..record import Record
from .withdrawal import Withdrawal

State = Literal["copied", "completed", "present", "left out"]


@dataclass(frozen=True, slots=True)
class Moved(Record):
    """An item of a package.

    Attributes:
        kind: `base`, `calibration`, `adapter` or `fused`.
        name: its name in the source registry.
        there: its name in the destination registry.
        digest: digest of its manifest.
        state: `copied`; `completed`, if only later additions were missing; `present`; or `left out`.
        bytes: size of the missing files.
        reason: why it was left out, or that its amendments differ in the destination.
        withdrawals: yanks that concern it in the destination.
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
        """Return a copy with the yanks that concern it."""
        return replace(self, withdrawals=told)


@dataclass(frozen=True, slots=True)
class Arrived(Record):
    """How much of a blob has arrived.

    Attributes:
        digest: digest of the blob.
        complete: whether it is in the store.
        bytes: received bytes of an unfinished upload, which the same sender can resume.
    """

    digest: str
    complete: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class PackagePlan(Record):
    """The plan of receiving a package.

    Attributes:
        registry: id of the destination registry.
        items_: the planned state of each item.
        blobs: the blobs that its items need, and how much of each has arrived.
    """

    registry: str
    items_: tuple[Moved, ...]
    blobs: tuple[Arrived, ...]


@dataclass(frozen=True, slots=True)
class PackageTaken(Record):
    """The result of receiving a package.

    Attributes:
        registry: id of the destination registry.
        items_: the state of each item.
    """

    registry: str
    items_: tuple[Moved, ...]
