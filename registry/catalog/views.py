"""One adapter in full, as it is now or was at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from .. import tables
from ..records.adapter_details import AdapterDetails
from ..records.evaluations import evaluation_records
from ..records.recipe import recipe_in
from ..records.renderings import own_form
from ..records.views import adapter_facts, entries
from ..records.withdrawals import Withdrawals


def full_record(
    session: Session, adapter: tables.Adapter, told: Mapping[int, Withdrawals], **facts: Any
) -> AdapterDetails:
    """Return an adapter with sizes, files and training.

    Args:
        session: of any transaction.
        adapter: its row.
        told: the yanks that concern it.
        facts: further fields of the record, and those that were otherwise at another moment.
    """
    from ..training.facts import recorded_points, run_record

    recipe = recipe_in(adapter.training)
    known = {
        **adapter_facts(session, [adapter], told)[0],
        "reduction_factor": round(adapter.total_parameters / max(1, adapter.trainable_parameters), 2),
        "bytes": adapter.manifest.size,
        "base_bytes": adapter.base.bytes,
        "files": entries(adapter.manifest),
        "format": own_form(adapter),
        "training": adapter.training,
        # Asked of the database only where there are any: sources without a recipe are for the audit.
        "computed_from": tuple(row.source.name for row in adapter.sources) if recipe is not None else (),
        "recipe": recipe,
        "training_run": run_record(session, adapter),
        "curve": recorded_points(session, adapter),
        "evaluations": evaluation_records(adapter.name, adapter.evaluations),
    }
    return AdapterDetails(**{**known, **facts})
