"""What has to leave the cache so that the rest fits: a plan first, shown or executed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .digest import Digest


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A fused model in the cache.

    Attributes:
        key: the fused artifact's key.
        path: its folder.
        size: bytes of its files.
        last_used: seconds since the epoch.
    """

    key: Digest
    path: Path
    size: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Eviction:
    """What has to go so that the cache fits its limit; nothing is gone before `execute`.

    Attributes:
        remove: entries to remove, least recently used first.
        keep: the others.
        fits: whether the limit is met afterwards; it is not if the entries to spare are too large.
    """

    remove: tuple[CacheEntry, ...]
    keep: tuple[CacheEntry, ...]
    fits: bool
    _remove: Callable[[CacheEntry], bool] = field(repr=False, compare=False)

    @property
    def freed_bytes(self) -> int:
        """Bytes that `execute` frees."""
        return sum(entry.size for entry in self.remove)

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay."""
        return sum(entry.size for entry in self.keep)

    def execute(self) -> int:
        """Remove the entries, except those used since the plan was made; return the bytes freed."""
        return sum(entry.size for entry in self.carry_out())

    def carry_out(self) -> list[CacheEntry]:
        """Remove the entries, except those used since the plan was made or read at the moment; return what went."""
        return [entry for entry in self.remove if self._remove(entry)]


def plan_eviction(
    entries: Iterable[CacheEntry],
    limit_bytes: int,
    *,
    stays: Callable[[CacheEntry], bool],
    remove: Callable[[CacheEntry], bool],
) -> Eviction:
    """Plan which entries have to go so that the others fit.

    Args:
        entries: the whole cache, least recently used first.
        limit_bytes: what the entries may take together.
        stays: tells of an entry whether it stays whatever happens; asked only as long as something has to go.
        remove: removes an entry unless it was used since; tells whether it is gone.
    """
    entries = list(entries)
    total = sum(entry.size for entry in entries)
    gone: list[CacheEntry] = []
    keep: list[CacheEntry] = []
    for entry in entries:
        if total > limit_bytes and not stays(entry):
            gone.append(entry)
            total -= entry.size
        else:
            keep.append(entry)
    return Eviction(tuple(gone), tuple(keep), total <= limit_bytes, remove)
