"""Facts about a base and an adapter that a bundle records: those that have a meaning outside of this registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..documents import measured_without_people, without_people
from ..record import parts_of, plain
from ..records.adapter import Adapter
from ..records.amendments import amendment_records
from ..records.evaluations import evaluation_records
from ..records.licences import adapter_licence, base_licence
from ..records.recipe import recipe_in
from ..records.views import adapter_values, moment
from ..training.curve import point_view
from ..training.facts import recorded_curve

if TYPE_CHECKING:
    from ..workspace import Workspace

_ARGUMENTS = (
    "batch_size",
    "grad_accumulation_steps",
    "learning_rate",
    "lr_schedule",
    "mask_prompt",
    "max_seq_length",
    "optimizer",
    "seed",
)
"""Of what a trainer was given: what says how it was trained, and not where."""

_MOST = 1000
"""Points of a curve that a bundle has; of more, every second, third and so on, and the last."""


def base_facts(workspace: Workspace, base: tables.BaseModel) -> dict[str, Any]:
    """Return `name`, `digest`, `licence`, and `hub_id` with `revision` if it came from a hub."""
    hub = next((row for row in base.revisions if row.source.startswith("hub:")), None)
    return {
        "name": base.name,
        "digest": base.digest,
        "licence": base_licence(workspace, base),
        "hub_id": hub.source.removeprefix("hub:") if hub else None,
        "revision": (hub.revision or None) if hub else None,
    }


def adapter_facts(session: Session, adapter: tables.Adapter) -> dict[str, Any]:
    """Return the facts about an adapter that a bundle records."""
    values = adapter_values(adapter)
    return {
        **{name: plain(values[name]) for name, part in parts_of(Adapter).items() if part.about.travels},
        "licence": adapter_licence({tag.key: tag.value for tag in adapter.tags}),
        "amendments": without_people(amendment_records(adapter.amendments)),
        **_measured(adapter),
        **computed_facts(adapter),
        "training": _training(session, adapter),
        "curve": _curve(session, adapter),
    }


def _measured(adapter: tables.Adapter) -> dict[str, Any]:
    """Return what was measured of it; a bundle of an adapter of which nothing was is what it always was."""
    found = measured_without_people(evaluation_records(adapter.name, adapter.evaluations))
    return {"evaluations": found} if found else {}


def computed_facts(adapter: tables.Adapter) -> dict[str, Any]:
    """Return under `computed` how it was computed from others; a bundle of an adapter that was trained is what it always was."""
    recipe = recipe_in(adapter.training)
    if recipe is None:
        return {}
    known = {row.position: row.source for row in adapter.sources}
    parts = [
        {
            "name": source.name if (source := known.get(position)) is not None else None,
            "digest": digest,
            "weight": weight,
            "licence": adapter_licence({tag.key: tag.value for tag in source.tags}) if source else None,
        }
        for position, (digest, weight) in enumerate(zip(recipe.sources, recipe.weights, strict=True))
    ]
    how = {"method": recipe.method, "density": recipe.density, "seed": recipe.seed, "fusery": recipe.fusery}
    return {"computed": {**how, "from": parts}}


def _training(session: Session, adapter: tables.Adapter) -> dict[str, Any]:
    """Return how it was trained, as far as that is on record."""
    found = {key: adapter.training.get(key) for key in _ARGUMENTS}
    run = session.scalars(select(tables.TrainingRun).filter_by(adapter_id=adapter.id)).first()
    if run is not None:
        found |= {
            "checkpoint": run.checkpoint,
            "chosen": run.chosen,
            "started_at": moment(run.started_at) if run.started_at else None,
            "seconds": run.seconds,
            "trained_tokens": run.trained_tokens,
            "git_commit": run.git_commit,
        }
    return {key: value for key, value in found.items() if value is not None}


def _curve(session: Session, adapter: tables.Adapter) -> list[dict[str, Any]]:
    points = recorded_curve(adapter).points
    step = -(-len(points) // _MOST) or 1
    kept = points if step == 1 else (*points[:-1:step], points[-1])
    return [point_view(point) for point in kept]
