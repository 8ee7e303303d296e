"""Values of another party, compared with the bounds of their columns."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from fusery.registry import tables
from fusery.registry.tables.bounds import problem_of

FIT = {
    "name": "course_rec_v1_20260115",
    "digest": "ab" * 32,
    "version": 1,
    "date": date(2026, 1, 15),
    "method": "lora",
    "rank": None,
    "alpha": 1e-300,
    "training": {"a": [1, None, {"b": "ä"}]},
    "note": "two\nlines",
    "created_at": datetime(2026, 1, 15, tzinfo=UTC),
    "created_by": "Ann Ünïcode 👩‍💻",
    "total_parameters": 2**40,
    "unknown": object(),
}


ADAPTER: Any = tables.AdapterRow.__table__
BAD: dict[str, list[Any]] = {
    "name": [None, "x" * 201, "a\x1b[31m", "a\nb", "a\u202eb", b"bytes", "\ud800"],
    "digest": ["ab", "../" * 21 + "x", ""],
    "version": ["1", True, 1.0, 2**31],
    "total_parameters": [2**63],
    "date": ["2026-01-15"],
    "alpha": ["1", float("nan"), float("inf")],
    "training": [{"a": "\x00"}, {"a": float("nan")}, "x" * (17 << 20)],
    "note": ["a\x00", "x" * (1 << 21)],
    "created_at": [datetime(2026, 1, 15), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))],
    "created_by": ["a\x9b31m"],
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_values_are_named_by_their_column(name: str) -> None:
    assert problem_of(ADAPTER, FIT) is None
    for value in BAD[name]:
        assert f"adapter.{name}" in str(problem_of(ADAPTER, {name: value})), ascii(value)[:40]


def test_a_document_that_is_nested_too_deeply() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert "training" in str(problem_of(ADAPTER, {"training": value}))


def test_sizes_are_not_negative_and_some_digests_may_be_empty() -> None:
    sizes: Any = tables.ManifestFileRow.__table__
    datasets: Any = tables.DatasetRow.__table__
    assert problem_of(sizes, {"size": -1})
    assert problem_of(datasets, {"digest": ""}) is None
