"""The local cache of fused models: listing, pruning, pinning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from fusery.storage.cache_space import CacheEntry
from fusery.storage.digest import Digest
from fusery.storage.processes import sweep_temporary

from .. import tables
from ..database.engine import batches
from ..errors import BadInputError
from ..record import Record, described
from ..records.adapter import Withdrawal
from ..records.fused import Foreign, FusedLabel
from ..records.fused_rows import fused_from, label_record, load_fused
from ..records.references import digest_prefix, resolve_any
from ..records.withdrawals import of_fused
from .records import aliased_keys
from .views import foreign_record

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


class Here(Record):
    """A fused model in this machine's cache."""

    path: Path = described("its folder")
    last_used: datetime = described("when something was last made of it, or read it", heading="unused")
    pinned: bool = described("whether it is kept regardless of the limit")
    in_use: bool = described("somebody reads it")


class CachedModel(Here):
    """A fused model in the cache, or the files of an adapter or a base (`fusery get`); unrecorded values are None."""

    key: Digest = described("digest of the inputs and the method", cell="{:.12}")
    bytes: int = described("size in bytes of its files", title="size", kind="size")
    adapter: str | None = described("name of its first adapter")
    precision: str | None = described("how it was written, such as `keep` or `auto`")
    scale: float | None = described("factor of the first adapter's update, if that is not its own scale")
    combined: str | None = described("its adapters with their weights, or one name", heading="adapter")
    format: str | None = described("its precision in words, or whose files these are", heading="precision")
    label: str | None = described("both")
    digest: str | None = described("digest of its manifest")
    foreign: Foreign | None = described("where it comes from; None if it was made here")
    aliases: tuple[str, ...] = described("aliases, `task#alias`, that keep it", heading="stays", free=True)
    withdrawals: tuple[Withdrawal, ...] = described("its yanks", heading="state", free=True, rare=True)


class CacheContents(Record):
    """The contents of this machine's cache."""

    path: Path = described("its folder")
    bytes: int = described("size in bytes of all its models")
    limit_bytes: int = described("up to which it may grow")
    entries: tuple[CachedModel, ...] = described("its models, least recently used first")
    uncached_pins: tuple[Digest, ...] = described("keys that are pinned, of models that are not in it")


class Removed(Record):
    """A fused model that was removed from the cache, or would be."""

    key: Digest = described("digest of the inputs and the method")
    bytes: int = described("size in bytes of its files")


class Pruned(Record):
    """The models that were removed from the cache, or would be."""

    dry_run: bool = described("nothing was removed; this is the plan")
    removed: int = described("number of removed models")
    freed_bytes: int = described("size of the removed models and temporary files in bytes")
    kept: int = described("number of remaining models")
    kept_bytes: int = described("size of the remaining models in bytes")
    limit_bytes: int = described("the limit that was applied")
    fits: bool = described("the cache is now within the limit")
    items_: tuple[Removed, ...] = described("the models that were removed")


class Pinned(Record):
    """A fused model that was pinned, or is not any more."""

    key: Digest = described("digest of the inputs and the method")
    changed: bool = described("whether this changed anything")


def cache_contents(workspace: Workspace) -> CacheContents:
    """Return the entries of the cache, least recently used first, with its limit and why each entry stays."""
    cache = workspace.cache
    entries, pinned = cache.entries(), cache.pinned()
    with workspace.database.read() as session:
        models = tuple(_cached_models(workspace, session, entries, pinned))
    return CacheContents(
        path=cache.root,
        bytes=sum(entry.size for entry in entries),
        limit_bytes=workspace.settings.cache_limit,
        entries=models,
        uncached_pins=tuple(sorted(pinned - {entry.key for entry in entries})),
    )


def prune(workspace: Workspace, limit: int | None = None, *, dry_run: bool = False) -> Pruned:
    """Remove the least recently used fused models, unless pinned, aliased or read, until the cache fits the limit."""
    limit = workspace.settings.cache_limit if limit is None else limit
    cache = workspace.cache
    with workspace.database.read() as session:
        spared = aliased_keys(session)
    plan = cache.evict(limit, spared)
    removed, swept = plan.remove, 0
    if not dry_run:
        removed, swept = tuple(plan.execute()), cache.sweep()
        sweep_temporary()  # it is not in the cache, and may be another registry's
    kept = [*plan.keep, *(entry for entry in plan.remove if entry not in removed)]
    left = sum(entry.size for entry in kept)
    return Pruned(
        dry_run=dry_run,
        removed=len(removed),
        freed_bytes=sum(entry.size for entry in removed) + swept,
        kept=len(kept),
        kept_bytes=left,
        limit_bytes=limit,
        fits=left <= limit,
        items_=tuple(Removed(key=entry.key, bytes=entry.size) for entry in removed),
    )


def pin(workspace: Workspace, reference: str) -> list[Pinned]:
    """Pin fused models: they stay in this machine's cache whatever its limit."""
    return [Pinned(key=key, changed=workspace.cache.pin(key)) for key in _keys(workspace, reference)]


def unpin(workspace: Workspace, reference: str) -> list[Pinned]:
    """Undo `pin`."""
    return [Pinned(key=key, changed=workspace.cache.unpin(key)) for key in _keys(workspace, reference)]


def parts_of(fused: tables.FusedRow) -> list[tuple[str, int]]:
    """Return the digests of the adapters in a fused model, each with the numbers of its base models."""
    adapters = [fused.adapter, *(extra.adapter for extra in fused.extras)]
    bases = [fused.base_id, *(adapter.base_id for adapter in adapters)]
    return [(adapter.digest, base) for adapter in adapters for base in dict.fromkeys(bases)]


def aliases_of(session: Session, parts: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[str]]:
    """Return the aliases that stand for adapters with some bytes, as `task#alias`, by digest and number of the base."""
    named, alias, aliases = tables.AdapterRow, tables.AliasRow, defaultdict[tuple[str, int], list[str]](list)
    for chosen in batches(sorted({digest for digest, _ in parts})):
        query = (
            select(named.digest, named.base_id, tables.TaskRow.name, alias.name)
            .join(alias, alias.adapter_id == named.id)
            .join(tables.TaskRow, tables.TaskRow.id == alias.task_id)
            .where(named.digest.in_(chosen))
        )
        for digest, base, task, name in session.execute(query):
            aliases[digest, base].append(f"{task}#{name}")
    return aliases


def entry_named(workspace: Workspace, text: str) -> CacheEntry | None:
    """Return the one entry of the cache whose key begins with the text, whether it is on record or not."""
    prefix = digest_prefix(text)
    entries = [entry for entry in workspace.cache.entries() if prefix and entry.key.startswith(prefix)]
    return entries[0] if len(entries) == 1 else None


def _cached_models(
    workspace: Workspace, session: Session, entries: Sequence[CacheEntry], pinned: AbstractSet[Digest]
) -> Iterator[CachedModel]:
    fused = tables.FusedRow
    rows = {
        row.key: row
        for chosen in batches(entry.key for entry in entries)
        for row in session.scalars(load_fused().where(fused.key.in_(chosen)))
    }
    withdrawals = of_fused(session, [row.id for row in rows.values()])
    aliases = aliases_of(session, (part for row in rows.values() for part in parts_of(row)))
    folders = _folders(session, [entry.key for entry in entries if entry.key not in rows])
    for entry in entries:
        row = rows.get(entry.key)
        label = label_record(row) if row else folders.get(entry.key)
        held = sorted({name for part in (parts_of(row) if row else ()) for name in aliases.get(part, ())})
        yield CachedModel(
            key=entry.key,
            path=entry.path,
            bytes=entry.size,
            last_used=datetime.fromtimestamp(entry.last_used, UTC),
            adapter=row.adapter.name if row else None,
            precision=row.precision if row else None,
            **(label or dict.fromkeys(("scale", "combined", "format", "label"))),
            digest=row.digest if row else entry.key if label else None,
            foreign=foreign_record(row) if row else None,
            aliases=tuple(held),
            withdrawals=withdrawals.get(row.id, ()) if row else (),
            pinned=entry.key in pinned,
            in_use=workspace.cache.is_in_use(entry.key),
        )


def _folders(session: Session, digests: Iterable[str]) -> dict[str, FusedLabel]:
    """Return the labels of cached files of adapters and bases; other digests are left out."""
    adapter, rendering, base = tables.AdapterRow, tables.AdapterRenderingRow, tables.BaseModelRow
    labels: dict[str, FusedLabel] = {}
    for chosen in batches(digests):
        own = select(adapter.digest, adapter.name).where(adapter.digest.in_(chosen)).order_by(adapter.id)
        rendered = select(rendering.digest, adapter.name).join(adapter, adapter.id == rendering.adapter_id)
        rendered = rendered.where(rendering.digest.in_(chosen)).order_by(adapter.id)
        for query in (own, rendered):
            for digest, name in session.execute(query):
                labels.setdefault(digest, _label(name, "files of an adapter"))
        bases = select(base).options(selectinload(base.names)).where(base.digest.in_(chosen))
        for row in session.scalars(bases):
            labels.setdefault(row.digest, _label(row.name, "files of a base"))
    return labels


def _label(name: str, kind: str) -> FusedLabel:
    return FusedLabel(scale=None, combined=name, format=kind, label=f"{name} ({kind})")


def _keys(workspace: Workspace, reference: str) -> list[Digest]:
    if (entry := entry_named(workspace, reference)) is not None:
        return [entry.key]
    with workspace.database.read() as session:
        subject = resolve_any(session, reference)
        if isinstance(subject, tables.FusedRow):
            return [Digest(subject.key)]
        made = fused_from(session, subject) if isinstance(subject, tables.AdapterRow) else ()
        keys = [Digest(row.key) for row in made]
    if not keys:
        raise BadInputError(f"nothing was fused from {reference} yet", hint=f"fusery fuse {reference}")
    return keys
