"""What names meant, and what was known of an adapter, at a moment of the past."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alias_year import Clock

from fusery.registry import Registry
from fusery.registry.errors import UnknownReferenceError

BEGIN = datetime(2030, 1, 1, 12, tzinfo=UTC)
ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_what_was_known_at_a_moment(
    stocked: Registry, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(BEGIN)
    clock.put_in(monkeypatch)
    days = [BEGIN + timedelta(days=day, hours=1) for day in range(4)]
    clock.now += timedelta(days=1)
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    stocked.adapters.amend("course_rec@1", val_loss=0.5, tags={"team": "x"}, reason="again")
    stocked.evaluations.record("course_rec@1", {"acc": 0.5})
    clock.now += timedelta(days=1)
    stocked.aliases.set("course_rec#prod", "course_rec@2")
    stocked.aliases.set("course_rec#canary", "course_rec@2")
    stocked.adapters.yank("course_rec@1", reason="leaked")
    clock.now += timedelta(days=1)
    third = stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec").name
    stocked.adapters.register(
        make_adapter("other", seed=4), base="tiny", task="aaa", version=2, date="20260401"
    )

    for reference, names in (
        ("course_rec#prod", (None, ONE, TWO, TWO)),
        ("course_rec@latest", (TWO, TWO, TWO, third)),
        ("course_rec@3", (None, None, None, third)),
        ("aaa@latest", (None, None, None, "aaa_v2_20260401")),
        (ONE, (ONE,) * 4),
    ):
        for day, name in zip(days, names, strict=True):
            if name is None:
                with pytest.raises(UnknownReferenceError) as caught:
                    stocked.adapters.show(reference, at=day)
                assert "2030" in caught.value.message
            else:
                assert stocked.adapters.show(reference, at=day).name == name

    def told(name: str, *fields: str) -> list[tuple[object, ...]]:
        shown = [stocked.adapters.show(name, at=day) for day in days[:3]]
        return [tuple(getattr(each, field) for field in fields) for each in shown]

    assert told(ONE, "aliases", "val_loss", "yanked", "yanked_reason") == [
        ((), 0.61, False, None), (("prod",), 0.5, False, None), ((), 0.5, True, "leaked"),
    ]  # fmt: skip
    assert [(dict(tags), len(amended), len(measured)) for tags, amended, measured in told(ONE, "tags", "amendments", "evaluations")] == [
        ({}, 0, 0), ({"team": "x"}, 2, 1), ({"team": "x"}, 2, 1),
    ]  # fmt: skip
    assert told(TWO, "aliases", "parent_yanked", "yanked") == [
        ((), None, False), ((), None, False), (("canary", "prod"), "leaked", False),
    ]  # fmt: skip
