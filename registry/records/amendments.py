"""Declared facts about an adapter that may be amended (fields that the record marks, and tags): present and earlier values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import canonical_json

from .. import tables
from ..errors import BadInputError
from ..names import compact_date, parse_date
from ..record import parts_of
from . import AMENDMENTS, REMARKS, TEXT, require_within
from .adapter import Adapter, Amendment

_BYTES = 2_000  # of a dataset's name and revision: PostgreSQL indexes at most 2,704, with the digest


def dataset_row(
    session: Session, name: str, *, revision: str = "", digest: str = "", examples: int | None = None
) -> tables.DatasetRow:
    """Return the row of a dataset, inserted if it is new; `examples` is what a new one is recorded with."""
    if (length := len(f"{name}{revision}".encode())) > _BYTES:
        raise BadInputError(f"dataset name and revision have {length:,} bytes", hint=f"at most {_BYTES:,}")
    data = tables.DatasetRow
    query = select(data).where(data.name == name, data.revision == revision, data.digest == digest)
    row = session.scalar(query)
    if row is None:
        row = data(name=name, revision=revision, digest=digest, examples=examples)
        session.add(row)
        session.flush()
    return row


State = dict[str, Any]  # field to value

TAG = "tag."  # what the field of a tag begins with

DATASET = ("dataset", "dataset_revision", "dataset_digest")
FIELDS = tuple(name for name, part in parts_of(Adapter).items() if part.about.amendable != "no")
"""All fields but the tags': names of the record, of `Correction` and of `fusery edit`."""

COLUMNS = tuple(field for field in FIELDS if field not in (*DATASET, "date"))  # named like the columns


def is_amendable(field: str) -> bool:
    """Tell whether there is such a field."""
    return field in FIELDS or field.startswith(TAG)


def is_free(field: str) -> bool:
    """Tell whether a field may be changed without a reason: notes and tags are remarks, and no statement of fact."""
    return field.startswith(TAG) or (field in FIELDS and parts_of(Adapter)[field].about.amendable == "freely")


def require_few_amendments(name: str, rows: Sequence[tables.AmendmentRow]) -> None:
    """Refuse more amendments than one adapter may have."""
    require_within(name, "amendments", AMENDMENTS, rows)
    remarks = [row for row in rows if is_free(row.field)]
    require_within(name, "changes of notes and tags", REMARKS, remarks, text=TEXT // 2)


def state_of(adapter: tables.AdapterRow) -> State:
    """Return what is on record about an adapter today."""
    return {
        **{field: getattr(adapter, field) for field in COLUMNS},
        **composed_values(adapter),
        **{f"{TAG}{tag.key}": tag.value for tag in adapter.tags},
    }


def composed_values(adapter: tables.AdapterRow) -> State:
    """Return those of the amendable values that are no columns of the adapter: its dataset and its date."""
    data = adapter.dataset
    return {
        "dataset": data.name if data else None,
        "dataset_revision": (data.revision or None) if data else None,
        "dataset_digest": (data.digest or None) if data else None,
        "date": compact_date(adapter.date),
    }


def state_then(adapter: tables.AdapterRow, moment: datetime) -> State:
    """Return what was on record about an adapter at a moment."""
    return undone(state_of(adapter), [row for row in adapter.amendments if row.since > moment])


def undone(state: Mapping[str, Any], amendments: Sequence[tables.AmendmentRow]) -> State:
    """Return what a state was before some amendments, of which the last one is the newest."""
    before = dict(state)
    for row in reversed(amendments):
        before[row.field] = json.loads(row.before)
    return {name: value for name, value in before.items() if value is not None or not name.startswith(TAG)}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the fields that differ between two states, each with its two values."""
    names = dict.fromkeys([*before, *sorted(after)])
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return [(name, was, will) for name, was, will in pairs if was != will]


def misfits(state: Mapping[str, Any], amendments: Iterable[tables.AmendmentRow]) -> list[str]:
    """Say of amendments, oldest first, which do not follow from one another or do not lead to a state."""
    last: State = {}
    messages = []
    for row in amendments:
        if not is_amendable(row.field):
            messages.append(f"an amendment is of {row.field[:60]!r}, which is never amended")
            continue
        try:
            was, will = json.loads(row.before), json.loads(row.after)
        except ValueError:
            messages.append(f"an amendment of {row.field} is not readable")
            continue
        if row.field in last and last[row.field] != was:
            before = text_of(last[row.field])[:100]
            messages.append(f"an amendment says that {row.field} was {row.before[:100]}, and it was {before}")
        last[row.field] = will
    for field, value in last.items():
        if state.get(field) != value:
            is_now, should = (text_of(state_value)[:100] for state_value in (state.get(field), value))
            messages.append(f"{field} is {is_now}, and was amended to {should}")
    return messages


def amend_row(session: Session, adapter: tables.AdapterRow, rows: Sequence[tables.AmendmentRow]) -> None:
    """Give an adapter the values that new amendments say, in the caller's write transaction."""
    adapter.amendments.extend(rows)
    put(session, adapter, {row.field: json.loads(row.after) for row in rows})


def put(session: Session, adapter: tables.AdapterRow, values: Mapping[str, Any]) -> None:
    """Write values into an adapter's row and its tags."""
    after = {**state_of(adapter), **values}
    for field in COLUMNS:
        setattr(adapter, field, after[field])
    adapter.date = parse_date(after["date"])
    name, revision, digest = (after[field] for field in DATASET)
    if any(field in values for field in DATASET):
        row = None
        if name is not None:
            row = dataset_row(
                session, name, revision=revision or "", digest=digest or "", examples=after["examples"]
            )
        adapter.dataset, adapter.dataset_id = row, row.id if row else None
    tags = {tag.key: tag for tag in adapter.tags}
    for field, value in values.items():
        if not field.startswith(TAG):
            continue
        tag = tags.get(key := field.removeprefix(TAG))
        if tag is None and value is not None:
            adapter.tags.append(tables.AdapterTagRow(key=key, value=value))
        elif tag is not None and value is not None:
            tag.value = value
        elif tag is not None:
            session.delete(tag)
            session.flush()
            session.expire(adapter, ["tags"])
    session.flush()


def text_of(value: Any) -> str:
    """Return a value as an amendment keeps it."""
    return canonical_json(value).decode("ascii")


def amendment_records(rows: Iterable[tables.AmendmentRow]) -> list[Amendment]:
    """Return the records of amendments."""
    return [Amendment.from_row(row, from_=json.loads(row.before), to=json.loads(row.after)) for row in rows]
