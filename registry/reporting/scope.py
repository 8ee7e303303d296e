"""Which records a section of a report is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that a section is about, by their numbers in rising order.

    They are found step by step, each along an index: as one query a database takes them for a walk through everything
    that stands on the same base.

    Attributes:
        adapters: the task's, or the one that the report is about.
        fused: what was made from their bytes, under whichever name these are registered.
        bundles: what was packed of the adapters, or of what was fused.
        deployments: where any of that runs or ran.
    """

    adapters: tuple[int, ...]
    fused: tuple[int, ...]
    bundles: tuple[int, ...]
    deployments: tuple[int, ...]

    @classmethod
    def of(cls, session: Session, task: tables.Task, only: tables.Adapter | None) -> Self:
        """Find the rows of a task, or of one adapter of it."""
        adapter, extra, packed = tables.Adapter, tables.FusedExtra, tables.BundleAdapter
        query = select(adapter.id, adapter.digest, adapter.base_id)
        mine = query.where(adapter.task_id == task.id) if only is None else query.where(adapter.id == only.id)
        rows = session.execute(mine).all()
        adapters = [row.id for row in rows]
        twins = _twins(session, {(row.digest, row.base_id) for row in rows})
        fused = {
            *_numbers(session, tables.Fused.id, tables.Fused.adapter_id, twins),
            *_numbers(session, extra.fused_id, extra.adapter_id, twins),
        }
        bundles = {
            *_numbers(session, tables.Bundle.id, tables.Bundle.fused_id, fused),
            *_numbers(session, packed.bundle_id, packed.adapter_id, adapters),
        }
        place = tables.Deployment
        deployments = {
            *_numbers(session, place.id, place.adapter_id, adapters),
            *_numbers(session, place.id, place.fused_id, fused),
            *_numbers(session, place.id, place.bundle_id, bundles),
        }
        found = (adapters, fused, bundles, deployments)
        return cls(*(tuple(sorted(numbers)) for numbers in found))


def _twins(session: Session, known: set[tuple[str, int]]) -> list[int]:
    """Return the adapters with these bytes on these bases."""
    row, found = tables.Adapter, []
    for chosen in batches({digest for digest, _ in known}):
        query = select(row.id, row.digest, row.base_id).where(row.digest.in_(chosen))
        found += [each.id for each in session.execute(query) if (each.digest, each.base_id) in known]
    return found


def _numbers(session: Session, wanted: Any, column: Any, values: Iterable[int]) -> list[int]:
    """Return the numbers in a column of the rows that have one of the values in another."""
    return [
        number
        for chosen in batches(values)
        for number in session.scalars(select(wanted).where(column.in_(chosen)))
    ]
