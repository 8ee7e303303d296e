"""Amounts and moments as people write and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.errors import BadInputError
from fusery.registry.parsing import age, is_ago, parse_expiry, parse_moment, parse_size, shown_size

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def test_a_size_is_shown_in_the_largest_unit() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 100 << 30: "100 GiB", 3 << 50: "3072 TiB"}
    assert {count: shown_size(count) for count in sizes} == sizes


@given(st.integers(0, 1 << 60))
def test_a_size_that_is_shown_can_be_written(count: int) -> None:
    assert abs(parse_size(shown_size(count)) - count) <= count * 0.006


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", NOW - timedelta(minutes=15)),
        (" 7D ", NOW - timedelta(days=7)),
        ("1.5 h", NOW - timedelta(minutes=90)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_a_time_or_how_long_ago_it_was(text: str, moment: datetime) -> None:
    assert parse_moment(text, now=NOW) == moment


def test_only_a_day_may_mean_its_end() -> None:
    assert parse_moment("20260301", end_of_day=True).hour == 23
    assert parse_moment("7d", end_of_day=True, now=NOW) == NOW - timedelta(days=7)
    before, found, after = datetime.now(UTC), parse_moment("7d"), datetime.now(UTC)
    assert before <= found + timedelta(days=7) <= after


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7y", "7 days", "99999999999w", "tomorrow", "2026-13-01"]
)
def test_invalid_moments_are_refused(text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_moment(text, now=NOW)
    assert "7d for seven days ago" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(seconds=-5), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=59, seconds=59), "59m"),
        (timedelta(hours=24), "1d"),
        (timedelta(days=740), "740d"),
    ],
)
def test_an_age_has_one_unit(ago: timedelta, shown: str) -> None:
    moment = NOW - ago
    assert age(moment, now=NOW) == shown
    assert age(moment.astimezone(timezone(timedelta(hours=5))).isoformat(), now=NOW) == shown


@given(st.integers(0, 10**9))
def test_an_age_that_is_shown_can_be_written(seconds: int) -> None:
    shown = age(NOW - timedelta(seconds=seconds), now=NOW)
    assert is_ago(shown)
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}[shown[-1]]
    assert 0 <= seconds - (NOW - parse_moment(shown, now=NOW)).total_seconds() < unit


@pytest.mark.parametrize(
    ("text", "until"),
    [
        (" 12H ", NOW + timedelta(hours=12)),
        ("2026-03-10", datetime(2026, 3, 10, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2027-03-01T12:00+02:00", datetime(2027, 3, 1, 10, tzinfo=UTC)),
        ("Never", None),
    ],
)
def test_an_expiry_is_a_moment_a_span_or_never(text: str, until: datetime | None) -> None:
    assert parse_expiry(text, now=NOW) == until


PAST = ["0d", "2026-03-09", "2026-03-10T12:00"]
TOO_FAR = ["999999999999999d", "9999-12-31", "9999-12-31T23:59-23:00"]


@pytest.mark.parametrize("text", [*PAST, *TOO_FAR, "90", "soon", "", "-1d"])
def test_invalid_expiries_are_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_expiry(text, now=NOW)


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,15}(\.[0-9]{1,9})? ?[smhdw]", fullmatch=True))
def test_an_expiry_is_later_and_within_a_hundred_years(text: str) -> None:
    try:
        until = parse_expiry(text, now=NOW)
    except BadInputError:
        return
    assert until is None or NOW < until <= NOW + timedelta(days=36600)
