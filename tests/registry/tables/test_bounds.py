"""Values of another party's, held against the columns that they are for."""

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


def test_what_is_recorded_today_fits() -> None:
    assert problem_of(tables.Adapter.__table__, FIT) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", None),
        ("name", "x" * 201),
        ("name", "a\x1b[31m"),
        ("name", "a\nb"),
        ("name", "a\u202eb"),
        ("name", b"bytes"),
        ("name", "\ud800"),
        ("digest", "ab"),
        ("digest", "../" * 21 + "x"),
        ("digest", ""),
        ("version", "1"),
        ("version", True),
        ("version", 1.0),
        ("version", 2**31),
        ("total_parameters", 2**63),
        ("date", "2026-01-15"),
        ("alpha", "1"),
        ("alpha", float("nan")),
        ("alpha", float("inf")),
        ("training", {"a": "\x00"}),
        ("training", {"a": float("nan")}),
        ("training", "x" * (17 << 20)),
        ("note", "a\x00"),
        ("note", "x" * (1 << 21)),
        ("created_at", datetime(2026, 1, 15)),
        ("created_at", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))),
        ("created_by", "a\x9b31m"),
    ],
)
def test_what_could_not_have_been_recorded_does_not(name: str, value: Any) -> None:
    assert f"adapter.{name}" in str(problem_of(tables.Adapter.__table__, {name: value}))  # type: ignore[arg-type]


def test_a_document_that_is_nested_without_end_does_not() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert "training" in str(problem_of(tables.Adapter.__table__, {"training": value}))  # type: ignore[arg-type]


def test_sizes_are_not_below_nothing_and_some_digests_may_be_empty() -> None:
    assert problem_of(tables.ManifestFile.__table__, {"size": -1})  # type: ignore[arg-type]
    assert problem_of(tables.Dataset.__table__, {"digest": ""}) is None  # type: ignore[arg-type]
