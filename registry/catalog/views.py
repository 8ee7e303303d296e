"""Adapters in full, as they are now or were at a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from .. import tables
from ..records.adapter_details import AdapterDetails
from ..records.evaluations import evaluation_records
from ..records.recipe import recipe_in
from ..records.renderings import own_form
from ..records.views import adapter_facts, entries
from ..records.withdrawal import Withdrawals


def full_records(
    session: Session,
    adapters: Sequence[tables.Adapter],
    told: Mapping[int, Withdrawals],
    facts: Mapping[int, Mapping[str, Any]],
) -> list[AdapterDetails]:
    """Return adapters with sizes, files and training; those asked for with `in_full` take the same statements however many they are.

    Args:
        session: of any transaction.
        adapters: their rows.
        told: the yanks that concern them.
        facts: by the number of its row, further fields of a record, and those that were otherwise at another moment.
    """
    known = adapter_facts(session, adapters, told)
    return [
        AdapterDetails(**{**each, **_full_facts(row), **facts[row.id]})
        for row, each in zip(adapters, known, strict=True)
    ]


def _full_facts(adapter: tables.Adapter) -> dict[str, Any]:
    from ..training.facts import recorded_points, run_record

    recipe = recipe_in(adapter.training)
    return {
        "reduction_factor": round(adapter.total_parameters / max(1, adapter.trainable_parameters), 2),
        "bytes": adapter.manifest.size,
        "base_bytes": adapter.base.bytes,
        "files": entries(adapter.manifest),
        "format": own_form(adapter),
        "training": adapter.training,
        # Asked of the database only where there are any: sources without a recipe are for the audit.
        "computed_from": tuple(row.source.name for row in adapter.sources) if recipe is not None else (),
        "recipe": recipe,
        "training_run": run_record(adapter),
        "curve": recorded_points(adapter),
        "evaluations": evaluation_records(adapter.name, adapter.evaluations),
    }
