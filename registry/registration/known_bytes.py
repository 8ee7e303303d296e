"""Registering the same bytes again: return the existing record, or explain what to do.

A record that is not withdrawn stands for its bytes.  If all records of the bytes are withdrawn, and the new submission
differs in something that cannot be amended (such as the base), they become a new version.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..admission.submission import Submission
from ..errors import AlreadyExistsError
from ..names import compact_date, parse_date
from ..records.amendments import TAG, State, is_amendable, state_of, undone
from ..records.references import load_adapters
from ..records.withdrawal import own
from ..records.withdrawals import of_adapters
from ..training.facts import recorded_curve
from .ground import Ground


def known_adapter(
    session: Session, task: tables.Task, digest: str, submission: Submission, ground: Ground
) -> tables.Adapter | None:
    """Return the adapter with these bytes under a task; None if they are to be registered.

    Args:
        session: of any transaction.
        task: what they are for.
        digest: of their manifest.
        submission: what the user says about them.
        ground: what they are said to stand on.

    Raises:
        AlreadyExistsError: the submission contradicts the record.
    """
    adapter = tables.Adapter
    query = select(adapter.id).where(adapter.task_id == task.id, adapter.digest == digest)
    numbers = session.scalars(query).all()
    if not numbers:
        return None  # nearly always, and far cheaper asked than all that an adapter has
    known = session.scalars(load_adapters().where(adapter.id.in_(numbers)).order_by(adapter.id.desc())).all()
    told = of_adapters(session, numbers)
    withdrawn = {number: reason for number, found in told.items() if (reason := own(found)) is not None}
    known = sorted(known, key=lambda row: row.id in withdrawn)
    said = [(row, _differences(session, row, submission, ground)) for row in known]
    for row, differs in said:
        if not differs:
            return row
    if not said:
        return None
    row, differs = said[0]
    fixed = [field for field in differs if not is_amendable(field)]
    if fixed and row.id in withdrawn:
        return None
    raise _refusal(row, differs, fixed, withdrawn.get(row.id))


def _refusal(
    row: tables.Adapter, differs: Mapping[str, tuple[Any, Any]], fixed: Sequence[str], yanked: str | None
) -> AlreadyExistsError:
    field, (was, said) = next(iter(differs.items()))
    state = "" if yanked is None else f" and yanked ({yanked[:200]})"
    other = f"without {field} {said}" if was is None else f"with {field} {str(was)[:100]} and not {said}"
    there = f"this adapter is already registered as {row.name}{state}, {other[:300]}"
    if fixed:
        hint = f"give --task OTHER if it is one adapter for two uses; else fusery yank {row.name} --reason TEXT  withdraws that record, and the same again then makes a new version"
        return AlreadyExistsError(f"{there}; {fixed[0]} is never amended", hint=hint)
    options = [
        f"--tag {shlex.quote(f'{name.removeprefix(TAG)}={value}')}"
        if name.startswith(TAG)
        else f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, (_, value) in differs.items()
    ]
    again = "" if yanked is None else f", then fusery yank {row.name} --undo"
    return AlreadyExistsError(
        f"{there}; registering changes no record",
        hint=f"fusery amend {row.name} {' '.join(options)} --reason TEXT{again}",
    )


def _differences(
    session: Session, row: tables.Adapter, submission: Submission, ground: Ground
) -> dict[str, tuple[Any, Any]]:
    """Return what is said otherwise than on record, each with both values.

    What was on record once counts as well: who registers again what was amended since says nothing new.
    """
    base, parent, other = ground.base, ground.parent, ground.trained_on
    columns = {name: value for name, value in submission.columns().items() if not is_amendable(name)}
    fixed: dict[str, tuple[Any, Any]] = {
        "base": (row.base.name, base.name if base.id != row.base_id else None),
        **{name: (getattr(row, name), value) for name, value in columns.items()},
        "parent": (row.parent.name if row.parent else None, parent.name if parent else None),
        "trained_on": (
            row.trained_on_name,
            other.name if other is not None and other.digest != row.trained_on else None,
        ),
    }
    differs = {field: both for field, both in fixed.items() if both[1] is not None and both[0] != both[1]}
    if submission.log is not None and not recorded_curve(row).points:
        differs["training curve"] = (None, submission.log)
    states = _states(row)
    for field, value in _said(submission).items():
        if value is not None and all(state.get(field) != value for state in states):
            differs[field] = (states[0].get(field), value)
    return differs


def _states(row: tables.Adapter) -> list[State]:
    """Return what was on record of an adapter at any time, the newest first."""
    today, rows = state_of(row), row.amendments
    return [undone(today, rows[number:]) for number in range(len(rows), -1, -1)]


def _said(submission: Submission) -> State:
    return {
        **{name: value for name, value in submission.columns().items() if is_amendable(name)},
        "date": compact_date(parse_date(submission.date)) if submission.date else None,
        "dataset": submission.dataset,
        **{f"{TAG}{key}": value for key, value in submission.tags.items()},
    }
