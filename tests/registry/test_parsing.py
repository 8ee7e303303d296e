"""Amounts as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.parsing import parse_size, plural, shown_size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (100 << 30, "100 GiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit(count: int, shown: str) -> None:
    assert shown_size(count) == shown


@given(st.integers(0, 1 << 60))
def test_a_size_that_is_shown_can_be_written(count: int) -> None:
    assert abs(parse_size(shown_size(count)) - count) <= count * 0.006


def test_one_is_no_plural() -> None:
    assert [plural(number, "fused model") for number in (0, 1, 2, 1204)] == [
        "0 fused models",
        "1 fused model",
        "2 fused models",
        "1,204 fused models",
    ]
    assert plural(2, "alias", "aliases") == "2 aliases"
