"""Listing base models, and showing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import joinedload, selectinload

from .. import tables
from ..records.base import Base, BaseDetails
from ..records.base_views import base_facts, base_record
from ..records.references import resolve_base

if TYPE_CHECKING:
    from ..workspace import Workspace


def list_bases(workspace: Workspace) -> list[Base]:
    """Return all base models, oldest first."""
    with workspace.database.read() as session:
        base = tables.BaseModel
        query = select(base).options(
            selectinload(base.names),
            selectinload(base.revisions),
            selectinload(base.calibrations),
            joinedload(base.manifest).selectinload(tables.Manifest.files),
        )
        return [base_record(row) for row in session.scalars(query.order_by(base.id))]


def show_base(workspace: Workspace, name: str, *, limit: int | None = None, offset: int = 0) -> BaseDetails:
    """Return one base model by name or digest prefix, with its adapters.

    Args:
        workspace: the registry's parts.
        name: its name, or how its digest begins.
        limit: adapters, the last ones; None for all.
        offset: without so many of the last ones.

    Raises:
        UnknownReferenceError: there is none.
    """
    with workspace.database.read() as session:
        base = resolve_base(session, name)
        query = select(tables.Adapter.name).where(tables.Adapter.base_id == base.id)
        query = query.order_by(tables.Adapter.id.desc()).offset(offset or None)
        found = session.scalars(query.limit(None if limit is None else limit + 1)).all()
        more = limit is not None and len(found) > limit
        return BaseDetails(
            **base_facts(base),
            adapters=tuple(reversed(found[:limit])),
            next=offset + limit if limit is not None and more else None,
        )
