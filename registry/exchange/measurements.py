"""Evaluations that come from another registry: claims like all else, held to the limits of those that are recorded here.

What is on record here stays: of two registries that have other values of the same measurement, each keeps its own.  What
was withdrawn there is withdrawn here, if it is the same value of the same measurement and was recorded before; and what
was withdrawn here does not come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .. import tables
from ..admission.submission import LIMITS
from ..errors import BadInputError
from ..limits import EVALUATIONS, require_within
from ..records.evaluations import key_of, parse_metric, range_problem, stands
from .package import Adapter, Values

_WITHDRAWN = ("withdrawn_at", "withdrawn_by", "withdrawn_reason")


@dataclass(frozen=True, slots=True)
class EvaluationChanges:
    """What a package changes in an adapter's evaluations here.

    Attributes:
        missing: values to record, withdrawn ones too.
        withdrawn: rows here, each with the values that say there that it was withdrawn.
        kept: rows of which there is another value there.
    """

    missing: list[Values]
    withdrawn: list[tuple[tables.Evaluation, Values]]
    kept: list[tables.Evaluation]


def require_measured(item: Adapter) -> None:
    """Refuse evaluations that cannot be recorded here.

    Raises:
        BadInputError: an evaluation is invalid, or is there twice.
    """
    keys = [key_of(values) for values in item.evaluations if values["withdrawn_at"] is None]
    if len(set(keys)) < len(keys):
        raise BadInputError(f"{item.name} has an evaluation twice", hint="fusery audit, there")
    for values in item.evaluations:
        parse_metric(values["metric"])
        said = {values[name] is None for name in _WITHDRAWN}
        if (
            len(said) > 1
            or len(values["withdrawn_reason"] or "") > LIMITS["note"]
            or min(values[name] or 0 for name in ("stderr", "shots", "samples")) < 0
            or range_problem(values["metric"], values["value"]) is not None
        ):
            raise BadInputError(
                f"{item.name} has an evaluation that is none: {values['metric'][:60]}",
                hint="fusery audit, there",
            )


def bring_evaluations(row: tables.Adapter, item: Adapter, now: datetime) -> list[str]:
    """Record missing evaluations and withdrawals, with no date in the future; return the kinds of changes for the log.

    Raises:
        BadInputError: the adapter would have too many evaluations.
    """
    changes = evaluation_changes(row, item)
    for known, values in changes.withdrawn:
        known.withdrawn_at = min(values["withdrawn_at"], now)
        known.withdrawn_by, known.withdrawn_reason = values["withdrawn_by"], values["withdrawn_reason"]
    row.evaluations.extend(
        tables.Evaluation(
            **{**values, **{name: _clamp_moment(values[name], row, now) for name in _moments(values)}}
        )
        for values in changes.missing
    )
    if changes.missing or changes.withdrawn:
        require_within(row.name, "evaluations", EVALUATIONS, row.evaluations)
    done = {"evaluation": bool(changes.missing), "withdrawn evaluation": bool(changes.withdrawn)}
    return [word for word, any_ in done.items() if any_]


def _clamp_moment(moment: datetime, row: tables.Adapter, now: datetime) -> datetime:
    """Return a moment, moved to between the creation of the record here and now."""
    return min(max(moment, row.created_at), now)


def _moments(values: Values) -> Iterator[str]:
    return (name for name in ("at", "withdrawn_at") if values[name] is not None)


def evaluation_changes(row: tables.Adapter, item: Adapter) -> EvaluationChanges:
    """Return what a package changes in the evaluations of an adapter that is here."""
    changes = EvaluationChanges([], [], [])
    ended = [values for values in item.evaluations if values["withdrawn_at"] is not None]
    ended.sort(key=lambda values: values["withdrawn_at"])
    last_there = {_same(values): values for values in ended}
    ended_here = {_same(each): each.withdrawn_at for each in row.evaluations if each.withdrawn_at is not None}
    known_ends = {(*_same(each), each.withdrawn_reason) for each in row.evaluations if not stands(each)}
    standing: dict[Any, tables.Evaluation] = {}
    for known in filter(stands, row.evaluations):
        said = last_there.get(_same(known))
        if said is not None and known.at <= said["withdrawn_at"]:
            changes.withdrawn.append((known, said))
            known_ends.add((*_same(known), said["withdrawn_reason"]))
        else:
            standing[key_of(known)] = known
    for values in (each for each in item.evaluations if each["withdrawn_at"] is None):
        own, end = standing.get(key_of(values)), ended_here.get(_same(values))
        if own is not None:
            changes.kept.extend([own] if own.value != values["value"] else [])
        elif end is None or values["at"] > end:
            changes.missing.append(values)
    # One withdrawal is known by what and why, and not by when: that may have been in the time to come.
    ends = {(*_same(values), values["withdrawn_reason"]): values for values in ended}
    changes.missing.extend(values for end, values in ends.items() if end not in known_ends)
    return changes


def _same(values: Values | tables.Evaluation) -> tuple[Any, ...]:
    """Return what two records of one measurement have in common."""
    value = values.value if isinstance(values, tables.Evaluation) else values["value"]
    return *key_of(values), value
