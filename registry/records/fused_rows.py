"""Rows of fused artifacts with all that their lines need, in a constant number of statements."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select, union
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.base import ExecutableOption

from .. import tables


def load_fused() -> Select[tables.Fused]:
    """Return the query for fused artifacts with all that their lines need, in a constant number of statements."""
    return select(tables.Fused).options(*_of_fused())


def _of_fused() -> Sequence[ExecutableOption]:
    fused, base, files = tables.Fused, joinedload(tables.Fused.base), tables.Manifest.files
    return (
        joinedload(fused.adapter),
        joinedload(fused.manifest).selectinload(files),
        base.joinedload(tables.BaseModel.manifest).selectinload(files),
        base.selectinload(tables.BaseModel.names),
        selectinload(fused.extras).joinedload(tables.FusedExtra.adapter),
    )


def fused_by_adapter(session: Session, adapters: Sequence[tables.Adapter]) -> dict[int, list[tables.Fused]]:
    """Return what was fused from each of a number of adapters, by the number of its row, oldest first: as `fused_from`."""
    twin, fused, extra = tables.Adapter, tables.Fused, tables.FusedExtra
    same = twin.digest.in_({adapter.digest for adapter in adapters})
    alone = select(twin.digest, fused.id).join(fused, fused.adapter_id == twin.id).where(same)
    added = select(twin.digest, extra.fused_id).join(extra, extra.adapter_id == twin.id).where(same)
    made = union(alone, added).subquery()
    query = select(made.c[0], fused).join(fused, fused.id == made.c[1]).options(*_of_fused())
    found = session.execute(query.order_by(fused.id)).all()
    return {
        adapter.id: [
            row for digest, row in found if digest == adapter.digest and row.base_id == adapter.base_id
        ]
        for adapter in adapters
    }
