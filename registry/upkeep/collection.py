"""The result of a collection, or its plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..record import Record, described

Kind = Literal["blob", "generation", "leftover"]


@dataclass(frozen=True, slots=True)
class Removed(Record):
    """Something that was removed from the store, or would be."""

    kind: Kind = described(
        "`blob` that nothing refers to, dead `generation` of a blob, or `leftover` of an interrupted write"
    )
    name: str = described("digest of a blob, else the name in the store")
    bytes: int = described("size in bytes; 0 if the store does not report it")


@dataclass(slots=True)
class Collection(Record):
    """What a collection removed and kept.

    Attributes:
        items_: what was removed.
        listed: blobs that were in the store when it began, whatever their generation.
        live: blobs that something refers to.
        live_bytes: bytes of those.
        quarantined: damaged blobs that were put aside; they stay.
        quarantined_bytes: bytes of those.
        notes: what is worth knowing.
    """

    dry_run: bool = described("nothing was removed, this is the plan")
    items_: list[Removed] = field(default_factory=list)
    listed: int = 0
    live: int = 0
    live_bytes: int = 0
    quarantined: int = 0
    quarantined_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    KEYS: ClassVar[tuple[str, ...]] = (
        "dry_run", "removed", "freed_bytes", "kept", "live", "live_bytes", "quarantined", "quarantined_bytes",
        "items_", "notes",
    )  # fmt: skip

    @property
    def removed(self) -> int:
        """How many things were removed."""
        return len(self.items_)

    @property
    def freed_bytes(self) -> int:
        """Bytes of what was removed."""
        return sum(item.bytes for item in self.items_)

    @property
    def kept(self) -> int:
        """Blobs that are still in the store: live ones, and those that are too young or in use."""
        return max(0, self.listed - sum(item.kind != "leftover" for item in self.items_))
