"""What an alias held at any moment, against a simulated year whose truth was written down as it happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alias_year import BEGIN, MICROSECOND, Clock, Year, stock

from fusery.registry import Registry

PROD = "course_rec#prod"


@pytest.fixture
def year(registry: Registry, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Year:
    """A year that has not begun."""
    versions, clock = stock(registry, tmp_path / "adapters", tiny_base), Clock()
    clock.put_in(monkeypatch)
    return Year(registry, versions, clock, seed=20260101)


def test_a_short_year(registry: Registry, year: Year) -> None:
    year.live(80)
    for alias, moment in year.questions(30, 25):
        expected, found = year.answer(alias, moment), registry.aliases.show(alias, at=moment.isoformat())
        assert {key: found[key] for key in expected} == expected
    for alias in year.aliases:
        now, found = year.answer(alias, datetime(2030, 1, 1, tzinfo=UTC)), registry.aliases.show(alias)
        assert all(found[key] == now[key] for key in ("adapter", "yanked", "since", "reason"))
    assert registry.upkeep.audit_chain().ok


def test_a_move_counts_from_its_moment_on(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the microsecond, whatever the offset that one asks in; of several moves at once the last one counts."""
    moment = datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    clock = Clock(moment)
    clock.put_in(monkeypatch)
    for version in (2, 1, 2):
        stocked.aliases.set("prod", f"course_rec@{version}")
    stocked.adapters.yank("course_rec@2", reason="bad")
    clock.now = moment + timedelta(seconds=1)
    stocked.adapters.unyank("course_rec@2")
    stocked.aliases.remove(PROD)

    def held(at: datetime | str) -> tuple[Any, Any]:
        found = stocked.aliases.show(PROD, at=at if isinstance(at, str) else at.isoformat())
        return found["adapter"] and found["adapter"].partition("_v")[2][0], found["yanked"]

    assert held(moment - MICROSECOND) == (None, None)
    assert held(moment) == ("2", True)
    assert held("2026-03-01") == held("2026-03-02T01:59:59.999999+02:00") == ("2", True)
    assert held("2026-03-02T00:00:00.999998") == ("2", True)
    assert held(clock.now) == (None, None)
    assert stocked.aliases.show(PROD)["since"] == clock.now.isoformat()


def test_a_clock_that_was_set_back_does_not_turn_the_history_round(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(BEGIN + timedelta(hours=1))
    clock.put_in(monkeypatch)
    stocked.aliases.set("prod", "course_rec@1")
    clock.now = BEGIN
    stocked.aliases.set("prod", "course_rec@2")
    times = [move["at"] for move in stocked.aliases.history(PROD)]
    assert times == sorted(times)
    assert stocked.aliases.show(PROD, at=times[-1])["adapter"] == stocked.aliases.show(PROD)["adapter"]
    assert stocked.aliases.show(PROD, at=(BEGIN + timedelta(minutes=59)).isoformat())["adapter"] is None
