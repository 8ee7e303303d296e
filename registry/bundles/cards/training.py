"""The training section of a model card: dataset, training arguments, and curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...charts.curves import CURVE, curve_svg
from ...documents import provenance_part
from ...names import is_hub_id
from ...record import parts_of
from ...records.adapter import Adapter

_ARGUMENTS = {
    "batch_size": "batch size",
    "grad_accumulation_steps": "batches to a step",
    "learning_rate": "learning rate",
    "lr_schedule": "schedule",
    "optimizer": "optimizer",
    "max_seq_length": "longest sequence, tokens",
    "mask_prompt": "prompts masked",
    "seed": "seed",
    "checkpoint": "checkpoint, iteration",
    "chosen": "checkpoint chosen",
    "started_at": "started at",
    "seconds": "seconds",
    "trained_tokens": "trained tokens",
    "git_commit": "commit of the training code",
}


ORIGIN = ("task", "version", "date", "rank", "alpha", "scale", "val_loss", "dataset")
"""Facts about an adapter that the card has among those of its origin."""

ELSEWHERE = frozenset({*ORIGIN, "name", "digest", "trained_on", "trained_on_digest", "note"})
"""Facts about an adapter that are not in the section on its training."""


def hub_datasets(adapter: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dataset if its name is a hub id: the hub accepts nothing else in a card's front matter."""
    name = adapter.get("dataset")
    if is_hub_id(name):
        yield str(name)


def training_rows(adapter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a label and a value for each known fact."""
    titles = {name: part.title for name, part in parts_of(Adapter).items() if part.about.travels}
    facts = {name: title for name, title in titles.items() if name not in ELSEWHERE}
    for labels, known in ((facts, adapter), (_ARGUMENTS, provenance_part(adapter, "training"))):
        for key, label in labels.items():
            if known.get(key) is not None:
                yield label, known[key]


def curve_values(adapter: Mapping[str, Any]) -> dict[str, str] | None:
    """Return `file` and `sentence` of the training curve; None if there are too few points to draw."""
    points = adapter.get("curve")
    if curve_svg(points) is None:
        return None
    return {"file": CURVE, "sentence": _sentence(points)}


def _sentence(points: Any) -> str:
    """Say in words what the picture shows; `points` can be drawn."""
    for key, what in (("val_loss", "validation"), ("train_loss", "training")):
        known = [
            (point["iteration"], point[key])
            for point in points
            if isinstance(point, Mapping)
            and isinstance(point.get("iteration"), int)
            and isinstance(point.get(key), int | float)
        ]
        if len(known) > 1:
            (first, start), (last, end) = known[0], known[-1]
            at, lowest = min(known, key=lambda each: each[1])
            return (
                f"The {what} loss was {start:.4g} at iteration {first} and {end:.4g} at iteration {last}; "
                f"the lowest is {lowest:.4g}, at iteration {at}."
            )
    return "Training loss by iteration."
