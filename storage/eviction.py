"""What has to leave the cache so that the rest fits: a plan first, shown or executed afterwards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .digest import Digest

if TYPE_CHECKING:
    from .cache import FusedCache


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
    _cache: FusedCache = field(repr=False, compare=False)

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
        gone = []
        for entry in self.remove:
            if self._cache.last_used(entry.key) <= entry.last_used:
                self._cache.remove(entry.key)
                if not entry.path.exists():
                    gone.append(entry)
        return gone


def plan_eviction(cache: FusedCache, limit_bytes: int, spare: Collection[str] = ()) -> Eviction:
    """Plan which entries have to go so that the others fit, least recently used first.

    Args:
        cache: whose entries.
        limit_bytes: what the entries may take together.
        spare: keys that stay whatever happens, besides those that are pinned or being read.
    """
    remove, keep = [], []
    spare = {*spare, *cache.pinned()}
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    for entry in entries:
        if total > limit_bytes and entry.key not in spare and not cache.is_in_use(entry.key):
            remove.append(entry)
            total -= entry.size
        else:
            keep.append(entry)
    return Eviction(tuple(remove), tuple(keep), total <= limit_bytes, cache)
