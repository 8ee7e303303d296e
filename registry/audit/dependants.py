"""Everything that relies on a blob or on a fused model: what stops working, or cannot be made again, without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, or_, select
from sqlalchemy.orm import Session, aliased

from fusery.storage.errors import FuseryError

from .. import tables
from ..records.fused_label import label_with_key

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, FuseryError)
"""What reading a record raises whose values are none: SQLite keeps whatever somebody wrote there."""


def of_blob(session: Session, digest: str) -> tuple[str, ...]:
    """Return what relies on a blob in the store, as `kind name`: what has it as a file, and what was made from that.

    A record with a value that is none is called by its row: whoever audits is told of both, of the blob and of the value.
    """
    return tuple(
        f"{kind} {each}"
        for kind, query, name in _relying()
        for each in _names(session, query, {"digest": digest}, name)
    )


def _names(
    session: Session, query: Select[Any], values: dict[str, str], name: Callable[[Any], str]
) -> tuple[str, ...]:
    try:
        return tuple(map(name, session.scalars(query, values)))
    except _UNREADABLE:
        session.expunge_all()
    table = query.column_descriptions[0]["entity"]
    numbers = session.scalars(query.with_only_columns(table.id), values).all()
    return tuple(_name(session, table, number, name) for number in numbers)


def _name(session: Session, table: Any, number: int, name: Callable[[Any], str]) -> str:
    try:
        return name(session.scalars(select(table).where(table.id == number)).one())
    except _UNREADABLE:
        session.expunge_all()
        return f"row {number} of {table.__tablename__}"


@cache
def _relying() -> tuple[tuple[str, Select[Any], Callable[[Any], str]], ...]:
    """Return the kinds of what relies on a blob, each with its query and the name of a row; made once, for there may be many."""
    files, base, adapter = tables.ManifestFile, tables.BaseModel, tables.Adapter
    made, same, fused, extra = tables.Calibration, aliased(tables.Adapter), tables.Fused, tables.FusedExtra
    manifests = select(files.manifest_id).where(files.blob == bindparam("digest"))
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
        ("base", _all(base, base.id.in_(bases)), lambda row: row.name),
        ("calibration", _all(made, made.manifest_id.in_(manifests)), lambda row: row.digest[:12]),
        ("adapter", _all(adapter, adapters), lambda row: row.name),
        ("fused", _all(fused, models), label_with_key),
        ("bundle", _all(bundle, bundles), lambda row: row.path),
        ("alias", _held(numbers), _alias),
    )


def of_fused(session: Session, key: str) -> tuple[str, ...]:
    """Return what relies on a fused artifact, as `kind name`."""
    row = session.scalars(select(tables.Fused).where(tables.Fused.key == key)).one()
    bundles = session.scalars(_all(tables.Bundle, tables.Bundle.fused_id == row.id))
    return (
        f"adapter {row.adapter.name}",
        *(f"bundle {bundle.path}" for bundle in bundles),
        *(f"alias {_alias(each)}" for each in session.scalars(_held([row.adapter_id]))),
    )


def _held(adapters: Any) -> Select[Any]:
    return _all(tables.Alias, tables.Alias.adapter_id.in_(adapters))


def _alias(row: tables.Alias) -> str:
    return f"{row.task.name}#{row.name}"


def _all(table: Any, condition: Any) -> Select[Any]:
    return select(table).where(condition).order_by(table.id)
