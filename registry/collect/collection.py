"""The result of a collection, or its plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["blob", "generation", "leftover"]


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that was removed from the store, or would be.

    Attributes:
        kind: `blob` that nothing refers to, dead `generation` of a blob, or `leftover` of an interrupted write.
        name: digest of a blob, else the name in the store.
        size: bytes, 0 where the store does not say.
    """

    kind: Kind
    name: str
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"kind": self.kind, "name": self.name, "bytes": self.size}


@dataclass(slots=True)
class Collection:
    """What a collection removed and kept.

    Attributes:
        dry_run: nothing was removed, this is the plan.
        items: what was removed.
        listed: blobs that were in the store when it began, whatever their generation.
        live: blobs that something refers to.
        live_bytes: bytes of those.
        quarantined: damaged blobs that were put aside; they stay.
        quarantined_bytes: bytes of those.
        notes: what is worth knowing.
    """

    dry_run: bool
    items: list[Removed] = field(default_factory=list)
    listed: int = 0
    live: int = 0
    live_bytes: int = 0
    quarantined: int = 0
    quarantined_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def removed(self) -> int:
        """How many things were removed."""
        return len(self.items)

    @property
    def freed_bytes(self) -> int:
        """Bytes of what was removed."""
        return sum(item.size for item in self.items)

    @property
    def kept(self) -> int:
        """Blobs that are still in the store: live ones, and those that are too young or in use."""
        return max(0, self.listed - sum(item.kind != "leftover" for item in self.items))

    def add(self, items: Iterable[Removed]) -> None:
        """Note what was removed."""
        self.items.extend(items)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "dry_run": self.dry_run,
            "removed": self.removed,
            "freed_bytes": self.freed_bytes,
            "kept": self.kept,
            "live": self.live,
            "live_bytes": self.live_bytes,
            "quarantined": self.quarantined,
            "quarantined_bytes": self.quarantined_bytes,
            "items": [item.to_dict() for item in self.items],
            "notes": self.notes,
        }
