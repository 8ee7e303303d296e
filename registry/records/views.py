"""How rows become the records of adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry

from .. import tables
from ..adapters.finding import Finding, Severity
from ..names import compact_date
from ..record import row_values
from .adapter import Adapter, Registered
from .amendments import amendment_records
from .withdrawal import Withdrawals, own
from .withdrawals import of_adapters


def moment(value: datetime) -> str:
    """Return a moment as ISO 8601 in UTC with its offset."""
    return value.isoformat(timespec="seconds")


def entries(manifest: tables.Manifest) -> tuple[FileEntry, ...]:
    """Return the files of a manifest: path, size in bytes, digest."""
    return tuple(FileEntry(file.path, file.size, Digest(file.sha256)) for file in manifest.files)


def adapter_records(session: Session, adapters: Sequence[tables.Adapter]) -> list[Adapter]:
    """Return the records of adapters; the number of queries does not depend on how many they are."""
    return [Adapter(**facts) for facts in adapter_facts(session, adapters)]


def adapter_record(session: Session, adapter: tables.Adapter) -> Adapter:
    """Return the record of one adapter."""
    return adapter_records(session, [adapter])[0]


def registered_record(session: Session, adapter: tables.Adapter, *, created: bool) -> Registered:
    """Return the record of an adapter that was handed in."""
    return Registered(**adapter_facts(session, [adapter])[0], created=created)


def adapter_facts(
    session: Session, adapters: Sequence[tables.Adapter], told: Mapping[int, Withdrawals] | None = None
) -> list[dict[str, Any]]:
    """Return the fields of adapters' records, for those that have more of them.

    Args:
        session: of any transaction.
        adapters: their rows.
        told: the yanks that concern each, if they are known already.
    """
    ids = [adapter.id for adapter in adapters]
    aliases: dict[int, list[str]] = defaultdict(list)
    for alias in session.scalars(
        select(tables.Alias).where(tables.Alias.adapter_id.in_(ids)).order_by(tables.Alias.name)
    ):
        aliases[alias.adapter_id or 0].append(alias.name)
    told = of_adapters(session, ids) if told is None else told
    return [_adapter_facts(adapter, aliases[adapter.id], told.get(adapter.id, ())) for adapter in adapters]


def adapter_values(adapter: tables.Adapter) -> dict[str, Any]:
    """Return what an adapter's own row says under the names of its record: its columns, and what stands for others."""
    dataset = adapter.dataset
    return {
        **row_values(Adapter, adapter),
        "task": adapter.task.name,
        "date": compact_date(adapter.date),
        "base": adapter.base.names[0].name,
        "trained_on": adapter.trained_on_name,
        "trained_on_digest": adapter.trained_on,
        "target_modules": tuple(adapter.target_modules),
        "dataset": dataset.name if dataset else None,
        "dataset_revision": (dataset.revision or None) if dataset else None,
        "dataset_digest": (dataset.digest or None) if dataset else None,
        "parent": adapter.parent.name if adapter.parent else None,
    }


def _adapter_facts(adapter: tables.Adapter, aliases: list[str], told: Withdrawals) -> dict[str, Any]:
    return {
        **adapter_values(adapter),
        "trainable_percent": round(100 * adapter.trainable_parameters / adapter.total_parameters, 6),
        "aliases": tuple(aliases),
        "tags": {tag.key: tag.value for tag in adapter.tags},
        "amendments": tuple(amendment_records(adapter.amendments)),
        "yanked": own(told) is not None,
        "withdrawals": told,
        "findings": tuple(
            Finding(row.code, cast(Severity, row.severity), row.subject, row.message, row.hint)
            for row in adapter.findings
        ),
    }


def trained_on_view(adapter: tables.Adapter) -> dict[str, Any] | None:
    """Return name and digest of the base that it was said to be trained on; None where that is its own."""
    return (
        None
        if adapter.trained_on is None
        else {"name": adapter.trained_on_name, "digest": adapter.trained_on}
    )
