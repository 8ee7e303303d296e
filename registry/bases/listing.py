"""Listing base models, and showing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from ..records.base import Base, BaseDetails
from ..records.base_views import base_facts, base_record
from ..records.references import resolve_base

if TYPE_CHECKING:
    from ..workspace import Workspace


def list_bases(workspace: Workspace) -> list[Base]:
    """Return all base models, oldest first."""
    with workspace.database.read() as session:
        return [
            base_record(base)
            for base in session.scalars(select(tables.BaseModel).order_by(tables.BaseModel.id))
        ]


def show_base(workspace: Workspace, name: str) -> BaseDetails:
    """Return one base model by name or digest prefix, with its adapters.

    Raises:
        UnknownReferenceError: there is none.
    """
    with workspace.database.read() as session:
        base = resolve_base(session, name)
        adapters = session.scalars(
            select(tables.Adapter.name).where(tables.Adapter.base_id == base.id).order_by(tables.Adapter.id)
        )
        return BaseDetails(**base_facts(base), adapters=tuple(adapters))
