"""The local cache of fused models: listing, pruning, pinning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from fusery.storage.digest import Digest
from fusery.storage.eviction import CacheEntry
from fusery.storage.temporary import sweep_temporary

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..records.fused_label import label_record
from ..records.references import fused_from, resolve_any
from ..records.views import moment
from ..records.withdrawals import of_fused, shown
from .foreign import foreign_record
from .records import aliased_keys, find_fused

if TYPE_CHECKING:
    from ..workspace import Workspace

_SHORTEST = 8
"""Hex digits that name an entry of the cache."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed from the cache, or would be.

    Attributes:
        dry_run: nothing was removed; this is the plan.
        limit_bytes: the limit that was applied.
        removed: entries that were removed.
        kept: entries that remain.
        swept_bytes: bytes that interrupted builds and damaged entries had left behind.
        fits: the cache is now within the limit.
    """

    dry_run: bool
    limit_bytes: int
    removed: tuple[CacheEntry, ...]
    kept: tuple[CacheEntry, ...]
    swept_bytes: int
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "dry_run": self.dry_run,
            "removed": len(self.removed),
            "freed_bytes": sum(entry.size for entry in self.removed) + self.swept_bytes,
            "kept": len(self.kept),
            "kept_bytes": sum(entry.size for entry in self.kept),
            "limit_bytes": self.limit_bytes,
            "fits": self.fits,
            "items": [{"key": entry.key, "bytes": entry.size} for entry in self.removed],
        }


def cache_contents(workspace: Workspace) -> dict[str, Any]:
    """Return the entries of the cache, least recently used first, with its limit and why each entry stays."""
    cache = workspace.cache
    entries, pinned = cache.entries(), cache.pinned()
    with workspace.database.read() as session:
        rows = {entry.key: _entry_view(session, entry) for entry in entries}
    for entry in entries:
        rows[entry.key] |= {"pinned": entry.key in pinned, "in_use": cache.is_in_use(entry.key)}
    return {
        "path": str(cache.root),
        "bytes": sum(entry.size for entry in entries),
        "limit_bytes": workspace.settings.cache_limit,
        "entries": list(rows.values()),
        "pinned_elsewhere": sorted(pinned - {entry.key for entry in entries}),
    }


def prune(workspace: Workspace, limit: int | None = None, *, dry_run: bool = False) -> Pruned:
    """Remove the least recently used fused models until the cache fits its limit; each can be rebuilt.

    Entries that are pinned, held by an alias or being read are not removed.

    Args:
        workspace: the registry's parts.
        limit: of the cache in bytes; None for the setting `cache_limit`.
        dry_run: only report what would be removed.

    Raises:
        StoreDeniedError: the cache may not be written to.
    """
    limit = workspace.settings.cache_limit if limit is None else limit
    cache = workspace.cache
    with workspace.database.read() as session:
        spared = aliased_keys(session)
    plan = cache.evict(limit, spared)
    if dry_run:
        return Pruned(True, limit, plan.remove, plan.keep, 0, plan.fits)
    gone = {entry.key for entry in plan.carry_out()}
    swept = cache.sweep() + sweep_temporary()
    removed = tuple(entry for entry in plan.remove if entry.key in gone)
    kept = (*plan.keep, *(entry for entry in plan.remove if entry.key not in gone))
    return Pruned(False, limit, removed, kept, swept, sum(entry.size for entry in kept) <= limit)


def pin(workspace: Workspace, reference: str) -> list[dict[str, Any]]:
    """Pin fused models: they stay in this machine's cache whatever its limit.

    Args:
        workspace: the registry's parts.
        reference: a fused artifact, or an adapter for all fused artifacts made from it.

    Returns:
        `key` and `changed` of each.

    Raises:
        BadInputError: nothing was fused from it yet.
        UnknownReferenceError: nothing has that name.
    """
    return [{"key": key, "changed": workspace.cache.pin(key)} for key in _keys(workspace, reference)]


def unpin(workspace: Workspace, reference: str) -> list[dict[str, Any]]:
    """Undo `pin`."""
    return [{"key": key, "changed": workspace.cache.unpin(key)} for key in _keys(workspace, reference)]


def aliases_of(session: Session, fused: tables.Fused) -> list[str]:
    """Return the aliases that stand for an adapter with these bytes, as `task#alias`."""
    named = aliased(tables.Adapter)
    parts = [fused.adapter.digest, *(extra.adapter.digest for extra in fused.extras)]
    query = (
        select(tables.Task.name, tables.Alias.name)
        .join(tables.Alias, tables.Alias.task_id == tables.Task.id)
        .join(named, tables.Alias.adapter_id == named.id)
        .where(named.digest.in_(parts))
        .order_by(tables.Task.name, tables.Alias.name)
    )
    return [f"{task}#{alias}" for task, alias in session.execute(query)]


def entry_named(workspace: Workspace, text: str) -> CacheEntry | None:
    """Return the one entry of the cache whose key begins with the text, whether it is on record or not."""
    prefix = text.strip().casefold()
    if len(prefix) < _SHORTEST or prefix.strip("0123456789abcdef"):
        return None
    found = [entry for entry in workspace.cache.entries() if entry.key.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _entry_view(session: Session, entry: CacheEntry) -> dict[str, Any]:
    row = find_fused(session, entry.key)
    return {
        "key": entry.key,
        "path": str(entry.path),
        "bytes": entry.size,
        "last_used": moment(datetime.fromtimestamp(entry.last_used, UTC)),
        "adapter": row.adapter.name if row else None,
        "precision": row.precision if row else None,
        **(label_record(row) if row else dict.fromkeys(("scale", "combined", "format", "label"))),
        "digest": row.digest if row else None,
        "foreign": foreign_record(row) if row else None,
        "aliases": aliases_of(session, row) if row else [],
        "withdrawals": shown(of_fused(session, [row.id]).get(row.id, ())) if row else [],
    }


def _keys(workspace: Workspace, reference: str) -> list[Digest]:
    try:
        with workspace.database.read() as session:
            subject = resolve_any(session, reference)
            if subject.fused is not None:
                return [Digest(subject.fused.key)]
            made = session.scalars(fused_from(subject.adapter)) if subject.adapter is not None else ()
            keys = [Digest(row.key) for row in made]
    except UnknownReferenceError:
        entry = entry_named(workspace, reference)
        if entry is None:
            raise
        return [entry.key]
    if not keys:
        raise BadInputError(f"nothing was fused from {reference} yet", hint=f"fusery fuse {reference}")
    return keys
