"""Everything that relies on a blob or on a fused model: what stops working, or cannot be made again, without it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..records.fused_label import label_with_key


def of_blob(session: Session, digest: str) -> tuple[str, ...]:
    """Return what relies on a blob in the store, as `kind name`: what has it as a file, and what was made from that."""
    files, base, adapter = tables.ManifestFile, tables.BaseModel, tables.Adapter
    made, same, fused, extra = tables.Calibration, aliased(tables.Adapter), tables.Fused, tables.FusedExtra
    manifests = select(files.manifest_id).where(files.blob == digest)
    bases = select(base.id).where(base.manifest_id.in_(manifests))
    adapters = or_(adapter.manifest_id.in_(manifests), adapter.base_id.in_(bases))
    # The same bytes may be registered under several names; a fused model belongs to all of them.
    twins = select(same.id).where(same.digest.in_(select(adapter.digest).where(adapters)))
    added = select(extra.fused_id).where(extra.adapter_id.in_(twins))
    models = or_(fused.adapter_id.in_(twins), fused.id.in_(added), fused.manifest_id.in_(manifests))
    numbers = select(adapter.id).where(adapters)
    packed = select(tables.BundleAdapter.bundle_id).where(tables.BundleAdapter.adapter_id.in_(numbers))
    bundle = tables.Bundle
    bundles = or_(bundle.fused_id.in_(select(fused.id).where(models)), bundle.id.in_(packed))
    return (
        *(f"base {row.name}" for row in _all(session, base, base.id.in_(bases))),
        *(f"calibration {row.digest[:12]}" for row in _all(session, made, made.manifest_id.in_(manifests))),
        *(f"adapter {row.name}" for row in _all(session, adapter, adapters)),
        *(f"fused {label_with_key(row)}" for row in _all(session, fused, models)),
        *(f"bundle {row.path}" for row in _all(session, bundle, bundles)),
        *_aliases(session, numbers),
    )


def of_fused(session: Session, key: str) -> tuple[str, ...]:
    """Return what relies on a fused artifact, as `kind name`."""
    row = session.scalars(select(tables.Fused).where(tables.Fused.key == key)).one()
    bundles = _all(session, tables.Bundle, tables.Bundle.fused_id == row.id)
    return (
        f"adapter {row.adapter.name}",
        *(f"bundle {bundle.path}" for bundle in bundles),
        *_aliases(session, select(tables.Adapter.id).where(tables.Adapter.id == row.adapter_id)),
    )


def _aliases(session: Session, adapters: Select[int]) -> list[str]:
    alias = tables.Alias
    return [
        f"alias {row.task.name}#{row.name}" for row in _all(session, alias, alias.adapter_id.in_(adapters))
    ]


def _all(session: Session, table: Any, condition: Any) -> list[Any]:
    return list(session.scalars(select(table).where(condition).order_by(table.id)))
