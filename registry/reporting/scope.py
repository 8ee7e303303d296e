"""Which records a section of a report is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, select, union
from sqlalchemy.orm import aliased

from .. import tables


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that a section is about: queries for their ids, so that no number of them is too many.

    Attributes:
        task: which.
        adapter: only this one of its adapters; None for all.
    """

    task: tables.Task
    adapter: tables.Adapter | None

    @property
    def adapters(self) -> Select[Any]:
        """Its adapters."""
        query = select(tables.Adapter.id).where(tables.Adapter.task_id == self.task.id)
        return query if self.adapter is None else query.where(tables.Adapter.id == self.adapter.id)

    @property
    def fused(self) -> Select[Any]:
        """What was made from the bytes, under whichever name they are registered."""
        mine, twin, fused, extra = tables.Adapter, aliased(tables.Adapter), tables.Fused, tables.FusedExtra
        same = and_(twin.digest == mine.digest, twin.base_id == mine.base_id)
        twins = select(twin.id).join(mine, same).where(mine.id.in_(self.adapters))
        return _either(
            select(fused.id.label("id")).where(fused.adapter_id.in_(twins)),
            select(extra.fused_id.label("id")).where(extra.adapter_id.in_(twins)),
        )

    @property
    def bundles(self) -> Select[Any]:
        """What was packed of them, or of what was fused."""
        bundle, packed = tables.Bundle, tables.BundleAdapter
        return _either(
            select(bundle.id.label("id")).where(bundle.fused_id.in_(self.fused)),
            select(packed.bundle_id.label("id")).where(packed.adapter_id.in_(self.adapters)),
        )

    @property
    def deployments(self) -> Select[Any]:
        """Where any of that runs or ran."""
        row = tables.Deployment
        return _either(
            select(row.id.label("id")).where(row.adapter_id.in_(self.adapters)),
            select(row.id.label("id")).where(row.fused_id.in_(self.fused)),
            select(row.id.label("id")).where(row.bundle_id.in_(self.bundles)),
        )


def _either(*queries: Select[Any]) -> Select[Any]:
    """Return the ids that any of the queries finds; OR would read whole tables."""
    return select(union(*queries).subquery().c.id)
