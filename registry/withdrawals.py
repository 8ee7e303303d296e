"""What is withdrawn: adapters that are yanked, and what holds the bytes of one: fused models and bundles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Select, and_, select, union_all
from sqlalchemy.orm import Session, aliased

from . import tables
from .batches import batches


def adapter_reasons(session: Session, ids: Iterable[int]) -> dict[int, str]:
    """Return why adapters are yanked, by the number of their row; those that are not are left out."""
    yank = tables.Yank
    query = select(yank.adapter_id, yank.reason).where(yank.lifted_at.is_(None)).order_by(yank.id.desc())
    return dict(_found(session, ids, lambda chosen: query.where(yank.adapter_id.in_(chosen))))


def fused_reasons(session: Session, ids: Iterable[int]) -> dict[int, str]:
    """Return why fused models are withdrawn: an adapter in them is, under whichever name its bytes were yanked."""
    return dict(_found(session, ids, _fused_query))


def bundle_reasons(session: Session, bundles: Iterable[tables.Bundle]) -> dict[int, str]:
    """Return why bundles are withdrawn: their fused model is, or an adapter that lies in them."""
    rows = list(bundles)
    fused = fused_reasons(session, [row.fused_id for row in rows if row.fused_id is not None])
    reasons = {row.id: fused[row.fused_id] for row in rows if row.fused_id in fused}
    packed = tables.BundleAdapter
    query = (
        select(packed.bundle_id, tables.Yank.reason)
        .join(tables.Yank, tables.Yank.adapter_id == packed.adapter_id)
        .where(tables.Yank.lifted_at.is_(None))
        .order_by(tables.Yank.id.desc())
    )
    found = _found(
        session, [row.id for row in rows], lambda chosen: query.where(packed.bundle_id.in_(chosen))
    )
    return {**dict(found), **reasons}


def _fused_query(chosen: Any) -> Select[Any]:
    """Return the query for what holds yanked bytes: alone, or as a further adapter of a sum."""
    fused, extra, yank = tables.Fused, tables.FusedExtra, tables.Yank
    part, twin = aliased(tables.Adapter), aliased(tables.Adapter)
    same = and_(twin.digest == part.digest, twin.base_id == part.base_id)
    standing = and_(yank.adapter_id == twin.id, yank.lifted_at.is_(None))
    alone = (
        select(fused.id.label("fused"), yank.id.label("yank"), yank.reason)
        .join(part, part.id == fused.adapter_id)
        .join(twin, same)
        .join(yank, standing)
        .where(fused.id.in_(chosen))
    )
    added = (
        select(extra.fused_id, yank.id, yank.reason)
        .join(part, part.id == extra.adapter_id)
        .join(twin, same)
        .join(yank, standing)
        .where(extra.fused_id.in_(chosen))
    )
    both = union_all(alone, added).subquery()
    return select(both.c.fused, both.c.reason).order_by(both.c.yank.desc())


def _found(session: Session, ids: Iterable[int], query: Any) -> Iterator[tuple[int, str]]:
    """Yield row numbers and reasons, of several reasons the earliest last."""
    for chosen in batches(ids):
        yield from ((number, reason) for number, reason in session.execute(query(chosen)))
