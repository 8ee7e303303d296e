"""Evaluations that come from another registry: claims like all else, held to the limits of those that are recorded here.

What is on record here stays: of two registries that have other values of the same measurement, each keeps its own.
"""

from __future__ import annotations

from datetime import datetime

from .. import tables
from ..errors import BadInputError
from ..records.evaluations import MOST, key_of, missing_evaluations, parse_metric
from .package import Adapter


def require_measured(item: Adapter) -> None:
    """Refuse evaluations that nobody could record here.

    Raises:
        BadInputError: there are too many, one has no such name, or two say the same otherwise.
    """
    if len(item.evaluations) > MOST:
        raise BadInputError(
            f"{item.name} has {len(item.evaluations):,} evaluations", hint="fusery audit, there"
        )
    keys = [key_of(values) for values in item.evaluations]
    if len(set(keys)) < len(keys):
        raise BadInputError(f"{item.name} has an evaluation twice", hint="fusery audit, there")
    for values in item.evaluations:
        parse_metric(values["metric"])
        if min(values[name] or 0 for name in ("stderr", "shots", "samples")) < 0:
            raise BadInputError(
                f"{item.name} has an evaluation that is none: {values['metric'][:60]}",
                hint="fusery audit, there",
            )


def bring_evaluations(row: tables.Adapter, item: Adapter, now: datetime) -> bool:
    """Record what is missing here, none of it of the time to come; return whether any was."""
    missing, _, _ = missing_evaluations(row, item.evaluations)
    row.evaluations.extend(
        tables.Evaluation(**{**values, "at": min(values["at"], now)})
        for values in missing[: max(0, MOST - len(row.evaluations))]
    )
    return bool(missing)


def lacks_evaluations(row: tables.Adapter, item: Adapter) -> tuple[bool, list[str]]:
    """Return whether any are missing here, and the metrics of which this registry keeps other values."""
    missing, _, others = missing_evaluations(row, item.evaluations)
    return bool(missing), sorted({each.metric for each in others})
