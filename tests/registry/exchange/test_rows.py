"""Values as JSON and back, the same from both databases."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry import tables
from fusery.registry.exchange.filling import _TYPES
from fusery.registry.tables.record import from_json, kind_of, to_json

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_ZONES = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
_DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "moment": st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=_ZONES),
    "boolean": st.booleans(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False),
    "date": st.dates(),
    "document": _DOCUMENTS,
    "text": _TEXT,
}


def there_and_back(kind: str, value: Any) -> Any:
    return from_json(kind, json.loads(json.dumps(to_json(kind, value), allow_nan=False)))


@pytest.mark.parametrize("kind", sorted(VALUES))
@given(data=st.data())
def test_every_value_comes_back(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    assert there_and_back(kind, value) == value
    assert there_and_back(kind, None) is None
    assert to_json(kind, there_and_back(kind, value)) == to_json(kind, value)


def test_a_number_that_postgresql_writes_out_has_the_same_text() -> None:
    for written, stored in (
        (1e16, 10**16),
        (1e22, 10**22),
        (1.5e300, 15 * 10**299),
        (-1e23, -(10**23)),
        (-0.0, 0.0),
    ):
        assert json.dumps(to_json("document", [written])) == json.dumps(to_json("document", [stored]))
    assert to_json("document", [10**23 + 1]) == [10**23 + 1]
    assert math.isnan(there_and_back("number", math.nan))


INVALID: dict[str, list[Any]] = {
    "moment": ["2026-01-15T12:00:00", 7],
    "date": ["15.1.2026"],
    "boolean": [1],
    "integer": [True, 2**63, 1.0],
    "number": ["1.0", True],
    "text": ["a\0b", "\ud800", 7],
    "document": [{"a": "\0"}],
    "blob": ["x"],
}


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_values_are_refused(kind: str) -> None:
    for value in INVALID[kind]:
        with pytest.raises(ValueError, match=r"."):
            from_json(kind, value)


def test_every_column_of_the_schema_has_a_kind() -> None:
    kinds = {kind_of(column) for table in tables.metadata.tables.values() for column in table.columns}
    assert kinds == _TYPES.keys() == VALUES.keys()


def test_times_are_written_in_utc() -> None:
    moment = datetime(2026, 1, 15, 13, 30, tzinfo=timezone(timedelta(hours=1)))
    assert to_json("moment", moment) == "2026-01-15T12:30:00.000000+00:00"
    assert from_json("moment", "2026-01-15T12:30:00.000000+00:00") == datetime(
        2026, 1, 15, 12, 30, tzinfo=UTC
    )
    assert to_json("date", date(2026, 1, 15)) == "2026-01-15"
