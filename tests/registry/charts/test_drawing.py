"""Laws of the pictures: whatever the numbers, there is room for them, and the marks say the same as the values."""

from __future__ import annotations

import itertools
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusery.registry.charts import svg, text, timeline
from fusery.registry.charts.curves import curves_chart
from fusery.registry.charts.heat_map_svg import heat_map_picture
from fusery.registry.charts.losses import versions_chart

_PLAIN = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e299, max_value=1e299)
_POWERS = st.builds(
    lambda digits, power: digits * 10.0**power, st.floats(-9.99, 9.99), st.integers(-324, 298)
)
_EDGES = st.sampled_from((0.0, 5e-324, -5e-324, sys.float_info.min, -sys.float_info.min, 1e299, -1e299))
NUMBERS = _PLAIN | _POWERS | _EDGES
"""What a loss may be, with all that a number can be: denormal, of any size, the same again, as far apart as can be."""


@given(
    st.lists(NUMBERS, min_size=1, max_size=20)
    | st.builds(lambda one, count: [one] * count, NUMBERS, st.integers(1, 3))
)
@example([5e-324])
@example([0.0, 5e-324])
@example([1e-300, 2e-300])
@example([-1e299, 1e299])
def test_an_axis_has_room_for_all_values_and_few_round_numbers(values: list[float]) -> None:
    scale, ticks = svg.axis(values, 200.0, 0.0)
    assert 2 <= len(ticks) <= 9
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert all(-0.01 <= scale(value) <= 200.01 for value in values)
    assert (scale(ticks[0]), scale(ticks[-1])) == pytest.approx((200.0, 0.0))


@given(st.text(max_size=80), st.integers(4, 40))
@example("000\x1f", 4)
def test_texts_are_printable_and_short(content: str, most: int) -> None:
    assert all(char.isprintable() or char == "\n" for char in text.shown(content))
    assert len(text.short(content, most)) <= most
    assert len(text.shown(content, most)) <= most


def test_values_as_people_read_them() -> None:
    assert [text.change(value) for value in (0.5, -0.5, 0, None)] == ["+0.5", "\N{MINUS SIGN}0.5", "0", "–"]
    sizes = (1023, 1024, 1 << 20, 1 << 51, "x")
    assert [text.size(value) for value in sizes] == ["1023 B", "1.00 KiB", "1.00 MiB", "2048.00 TiB", "–"]
    assert [text.finite(value) for value in (True, 1e300, 9, "9")] == [None, None, 9.0, None]
    assert [text.short("abcdefgh", most) for most in (5, 8)] == ["ab…gh", "abcdefgh"]
    assert [text.shown("abc", most) for most in (2, 3)] == ["a…", "abc"]
    assert (text.version_of("a", "a_v2_20260101"), text.version_of("b", "a_v2_20260101")) == (
        "2",
        "a_v2…60101",
    )
    assert (text.moment(None), text.when(None), text.share(-0.5)) == (None, "–", "\N{MINUS SIGN}50.0 %")
    assert text.when("2026-01-01T01:00:00+01:00") == "2026-01-01 00:00"


@given(st.text(max_size=40))
def test_elements_escape_all_that_is_in_them(content: str) -> None:
    made = str(svg.element("text", content, class_=content))
    inner = made.removeprefix("<text ").removesuffix("</text>")
    assert "<" not in inner
    assert inner.count(">") == 1
    assert inner.count('"') == 2


MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


@given(MOMENTS, st.timedeltas(timedelta(microseconds=1), timedelta(days=200_000)))
def test_a_time_axis_has_few_moments_in_order(start: datetime, span: timedelta) -> None:
    ticks, _ = timeline._ticks(start, start + span)
    assert 1 <= len(ticks) <= 12
    assert all(start <= tick <= start + span for tick in ticks)
    assert all(a < b for a, b in itertools.pairwise(ticks))


def test_a_long_time_axis_has_months_or_years() -> None:
    start = datetime(2020, 2, 3, tzinfo=UTC)
    for years, form in ((1, "%b %Y"), (12, "%Y")):
        assert timeline._ticks(start, start + timedelta(days=366 * years))[1] == form


def version(number: int, loss: Any, **more: Any) -> dict[str, Any]:
    view = {"name": f"a_v{number}_20260101", "version": number, "date": "20260101", "val_loss": loss}
    return {**view, "aliases": [], "yanked": False, **more}


@example([5e-324])
@given(st.lists(st.none() | NUMBERS | st.just(float("inf")) | st.just("low"), min_size=1, max_size=40))
def test_versions_are_marked_as_what_they_are(losses: list[Any]) -> None:
    versions = [version(number, loss) for number, loss in enumerate(losses, 1)]
    made = versions_chart("k", {"task": "a", "adapter": None, "versions": versions})
    known = [loss for loss in losses if text.finite(loss) is not None]
    assert (made is None) == (not known)
    if made is not None:
        assert made.count('class="dot s0"') == len(known)
        assert made.count('class="missing"') == len(losses) - len(known)
        assert not re.search("nan|inf", made)


def test_withdrawn_and_requested_versions_look_different() -> None:
    versions = [version(1, 0.5), version(2, 0.4, yanked=True), version(3, 0.3, aliases=["prod"])]
    made = versions_chart("k", {"task": "a", "adapter": "a_v3_20260101", "versions": versions})
    assert made is not None and "#prod" in made
    counts = [made.count(part) for part in ("ring yanked", 'class="dot s0"', 'class="wanted"')]
    assert counts == [1, 2, 1]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 10**9), st.none() | NUMBERS, st.none() | NUMBERS), max_size=6),
        max_size=6,
    )
)
def test_curves_of_any_numbers(curves: list[list[tuple[int, float | None, float | None]]]) -> None:
    keys = ("iteration", "train_loss", "val_loss")
    shown = [
        {"version": at, "points": [dict(zip(keys, point, strict=True)) for point in points]}
        for at, points in enumerate(curves)
    ]
    section = {"task": "a", "curves": shown}
    made = curves_chart("k", section)
    measured = [loss for points in curves for _, *losses in points for loss in losses if loss is not None]
    assert (made is None) == (not measured)
    assert made is None or not re.search(r"nan|inf[^o]", made)


def test_bars_are_as_long_as_an_alias_held_something() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def move(day: int, to: str | None) -> dict[str, Any]:
        return {"at": (begin + timedelta(days=day)).isoformat(), "to": to, "from": None}

    moves = [move(0, "a_v1_20260101"), move(40, None), move(60, "a_v2_20260301"), move(80, "a_v1_20260101")]
    section = {
        "task": "a",
        "aliases": [{"alias": "prod", "moves": moves}],
        "until": (begin + timedelta(days=100)).isoformat(),
        "yanks": [{"adapter": "a_v2_20260301", "lifted_at": None}],
    }
    made = timeline.timeline("k", section)
    assert made is not None
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*class="([^"]*)"', made)
    widths = [float(width) for _, width, _ in bars]
    assert [round(width / sum(widths), 2) for width in widths] == [0.5, 0.25, 0.25]
    assert [kind for _, _, kind in bars] == ["held h0", "held h1 yanked", "held h0"]


def map_of(
    count: int, *rows: tuple[str, list[float | None]], outside: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return a map of layers."""
    return {
        "name": "a", "format": "keep", "fidelity": {"retained": 0.5}, "layers": list(range(count)),
        "rows": [{"label": label, "cells": cells} for label, cells in rows], "outside": outside or [],
    }  # fmt: skip


def test_a_map_shows_lost_and_degraded_cells_without_colour() -> None:
    rows = (("q_proj", [None, 0.1, 0.5, 0.9, *([1.2] * 25), -0.2]), ("k_proj", [None, None, *([1.0] * 28)]))
    made = heat_map_picture("k", map_of(30, *rows, outside=[{"label": "lm_head", "cells": [0.25]}]))
    assert made is not None
    assert (made.count(">×<"), made.count(">–<")) == (2, 1)
    assert made.count('class="nothing"') == 1  # in a layer that was adapted; others are not drawn
    assert ">25<" in made


@given(st.integers(1, 130), st.integers(0, 129), st.sampled_from([356, 860]))
@settings(max_examples=50)
def test_a_map_fits_and_has_every_adapted_layer_and_no_other(count: int, first: int, width: int) -> None:
    cells = [None if layer < first else 0.5 for layer in range(count)]
    made = heat_map_picture("k", map_of(count, ("q_proj", cells)), width)
    adapted = max(0, count - first)
    assert (made is None) == (not adapted)
    if made is not None:
        assert 'class="nothing"' not in made
        assert len(re.findall(r"<rect [^>]*rx=", made)) == adapted
        assert int(re.findall(r'width="(\d+)" height', made)[0]) <= width
        boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', made)
        assert all(float(x) + float(wide) <= width for x, wide in boxes)
