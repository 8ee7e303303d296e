"""Values of another party, compared with the bounds of their columns."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from fusery.registry.record import About, parts_of
from fusery.registry.records.adapter import Adapter
from fusery.registry.tables.bounds import problem_of
from fusery.registry.tables.record import document_text, from_json, to_json

GOOD: dict[str, list[Any]] = {
    "name": ["course_rec_v1_20260115"],
    "version": [1],
    "alpha": [None, 1e-300],
    "note": ["two\nlines"],
    "created_at": [datetime(2026, 1, 15, tzinfo=UTC)],
    "created_by": ["Ann Ünïcode 👩‍💻"],
    "total_parameters": [2**40],
    "tags": [{"a": [1, None, {"b": "ä"}]}],
}
BAD: dict[str, list[Any]] = {
    "name": ["x" * 501, "a\x1b[31m", "a\nb", "a\u202eb", "\ud800"],
    "version": [-1, 2**31],
    "total_parameters": [-1, 2**63],
    "alpha": [float("nan"), float("inf")],
    "tags": [{"a": "\x00"}, {"a": float("nan")}, {"a": "x" * (17 << 20)}],
    "note": ["a\x00", "x" * (1 << 21)],
    "created_at": [
        datetime(2026, 1, 15),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
        datetime(2099, 1, 1, tzinfo=UTC),
    ],
    "created_by": ["a\x9b31m", "x" * 201],
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_values_are_reported(name: str) -> None:
    about, now = parts_of(Adapter)[name].about, datetime(2026, 2, 1, tzinfo=UTC)
    for value in GOOD[name]:
        assert problem_of(value, about, now) is None
    for value in BAD[name]:
        assert problem_of(value, about, now), ascii(value)[:40]


def test_a_document_that_is_nested_too_deeply() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert problem_of(value, About())


NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
GOOD_JSON: dict[str, dict[Any, Any]] = {
    "moment": {"2026-01-15T12:00:00.000000+00:00": NOON},
    "date": {"2026-01-15": date(2026, 1, 15)},
    "boolean": {True: True},
    "integer": {-(2**63): -(2**63), 2**63 - 1: 2**63 - 1},
    "number": {1.5: 1.5, "inf": float("inf")},
    "text": {"a": "a"},
}
BAD_JSON: dict[str, list[Any]] = {
    "moment": ["2026-01-15T12:00:00", "0001-01-01T12:00:00+00:00", "9999-12-31T12:00:00+00:00", 1],
    "date": ["today", 20260115],
    "boolean": [1, "true"],
    "integer": [True, 1.0, 2**63, -(2**63) - 1],
    "number": [True, "1", []],
    "text": ["a\0", 1],
    "document": [{"a": "\0"}],
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_values_in_a_backup_have_the_kind_of_their_column(kind: str) -> None:
    for text, value in GOOD_JSON.get(kind, {}).items():
        assert (from_json(kind, text), to_json(kind, value)) == (value, text)
    assert from_json(kind, None) is to_json(kind, None) is None
    for wrong in BAD_JSON[kind]:
        with pytest.raises(ValueError):
            from_json(kind, wrong)


def test_numbers_of_documents_are_those_that_both_databases_return() -> None:
    numbers = {
        "1e15": (1e15, "1000000000000000.0"),
        "1e16": (1e16, "10000000000000000"),
        "-1e16": (-1e16, "-10000000000000000"),
        "2.0**63": (2.0**63, "9.223372036854776e+18"),
        "-0.0": (-0.0, "0.0"),
        "10**23": (10**23, "1e+23"),
        "2**63 - 1": (2**63 - 1, "9223372036854775807"),
        "2**63 + 1": (2**63 + 1, "9223372036854775809"),
    }
    for name, (value, text) in numbers.items():
        assert document_text({"a": [value]}) == f'{{"a": [{text}]}}', name
