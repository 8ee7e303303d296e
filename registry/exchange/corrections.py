"""Amendments that come from another registry: claims like all else, which count where they fit what is on record here.

An adapter that is new comes with what it was amended to, and with its amendments.  One that is here already gets what was
amended there since, as far as that follows from what is on record here: of two registries that amended a field otherwise,
each keeps what it says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError

from .. import tables
from ..errors import BadInputError
from ..limits import TAGS, require_count
from ..names import compact_date, parse_date
from ..records.amendments import (
    COLUMNS,
    DATASET,
    TAG,
    State,
    amend_row,
    misfits,
    require_few_amendments,
    state_of,
    text_of,
    undone,
)
from ..registration.correction import accepted
from .package import Adapter, Values


def require_fitting(item: Adapter) -> None:
    """Refuse amendments that contradict one another, or the record that they come with.

    Raises:
        BadInputError: they do, or there are too many.
    """
    rows = _rows(item)
    require_few_amendments(item.name, rows)
    for row in rows:
        try:
            for text in (row.before, row.after):
                value = json.loads(text)
                if text_of(accepted(row.field, value)) != text:
                    raise ValueError
        except (ValueError, TypeError, FuseryError) as error:
            raise BadInputError(
                f"{item.name} has an amendment that is none: {row.field[:60]}", hint="fusery audit, there"
            ) from error
    for found in misfits(_state(item), rows):
        raise BadInputError(f"{item.name}: {found}", hint="fusery audit, there")


def first_said(item: Adapter) -> State:
    """Return what was declared about an adapter when it was registered, before any amendment."""
    return undone(_state(item), _rows(item))


def first_date(item: Adapter) -> date:
    """Return the day that an adapter was registered with, which its name has."""
    return parse_date(first_said(item)["date"])


def rows_of(item: Adapter, now: datetime) -> list[tables.Amendment]:
    """Return the amendments of an adapter that is new here; none of them is of the time to come."""
    rows = _rows(item)
    for row in rows:
        row.at, row.since = min(row.at, now), min(row.since, now)
    return rows


def bring_corrections(session: Session, row: tables.Adapter, item: Adapter, now: datetime) -> bool:
    """Record a package's new amendments of an existing adapter, effective from now; return whether there were any.

    Raises:
        BadInputError: the adapter would have too many amendments or tags.
    """
    rows, _ = missing_corrections(row, item)
    for each in rows:
        each.at, each.since = min(each.at, now), max([now, *(known.since for known in row.amendments)])
    if rows:
        require_few_amendments(row.name, [*row.amendments, *rows])
    amend_row(session, row, rows)
    require_count(row.name, "tags", TAGS, len(row.tags))
    return bool(rows)


def missing_corrections(row: tables.Adapter, item: Adapter) -> tuple[list[tables.Amendment], list[str]]:
    """Return the amendments that are still missing here and fit, and the fields that were amended otherwise here."""
    known = Counter(_key(each) for each in row.amendments)
    state, fitting, kept = state_of(row), list[tables.Amendment](), set[str]()
    for each in _rows(item):
        if known[_key(each)] > 0:
            known[_key(each)] -= 1
            continue
        was, will = json.loads(each.before), json.loads(each.after)
        if each.field not in kept and state.get(each.field) == was:
            state[each.field] = will
            fitting.append(each)
        elif state.get(each.field) != will:
            kept.add(each.field)
    if state["dataset"] is None and any(state[field] is not None for field in DATASET):
        kept |= {each.field for each in fitting if each.field in DATASET}
        fitting = [each for each in fitting if each.field not in DATASET]
    return fitting, sorted(kept)


def why_kept(fields: Sequence[str]) -> str | None:
    """Say that a registry keeps what it says; None where it has nothing to keep."""
    return f"keeps its own {', '.join(fields)}" if fields else None


def _rows(item: Adapter) -> list[tables.Amendment]:
    return [tables.Amendment(**values) for values in item.amendments]


def _key(row: tables.Amendment) -> tuple[Any, ...]:
    # Leave out the author: a server records the sender instead of the name in the package.
    return row.field, row.before, row.after, row.reason, row.at


def _state(item: Adapter) -> State:
    data: Values = item.dataset or {}
    return {
        **{field: item.values[field] for field in COLUMNS},
        "dataset": data.get("name"),
        "dataset_revision": data.get("revision") or None,
        "dataset_digest": data.get("digest") or None,
        "date": compact_date(item.values["date"]),
        **{f"{TAG}{tag['key']}": tag["value"] for tag in item.tags},
    }
