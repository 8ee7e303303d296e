"""Laws of the pictures: whatever the numbers, there is room for them, and the marks say the same as the values."""

from __future__ import annotations

import itertools
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusery.registry.charts import svg, text
from fusery.registry.charts.curves import curves_chart, versions_chart
from fusery.registry.charts.heat_map import WIDTH, HeatMap, Row, heat_map_picture

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
    sizes = (1023, 1024, 1 << 20, 1 << 51, "x")
    assert [text.size(value) for value in sizes] == ["1023 B", "1.00 KiB", "1.00 MiB", "2048.00 TiB", "–"]
    assert [text.finite(value) for value in (True, 1e300, 9, "9")] == [None, None, 9.0, None]
    assert [text.short("abcdefgh", most) for most in (5, 8)] == ["ab…gh", "abcdefgh"]
    assert [text.shown("abc", most) for most in (2, 3)] == ["a…", "abc"]
    assert (text.when(None), text.share(-0.5)) == ("–", "\N{MINUS SIGN}50.0 %")
    assert text.when("2026-01-01T01:00:00+01:00") == "2026-01-01 00:00"


@given(st.text(max_size=40))
def test_elements_escape_all_that_is_in_them(content: str) -> None:
    made = str(svg.element("text", content, class_=content))
    inner = made.removeprefix("<text ").removesuffix("</text>")
    assert "<" not in inner
    assert inner.count(">") == 1
    assert inner.count('"') == 2


def version(number: int, loss: Any, **more: Any) -> dict[str, Any]:
    view = {"name": f"a_v{number}_20260101", "version": number, "date": "20260101", "val_loss": loss}
    return {**view, "aliases": [], "yanked": False, **more}


@example([5e-324])
@given(st.lists(st.none() | NUMBERS | st.just(float("inf")) | st.just("low"), min_size=1, max_size=40))
def test_versions_are_marked_as_what_they_are(losses: list[Any]) -> None:
    versions = [version(number, loss) for number, loss in enumerate(losses, 1)]
    made = versions_chart("k", {"task": "a", "versions": versions})
    known = [loss for loss in losses if text.finite(loss) is not None]
    assert (made is None) == (not known)
    if made is not None:
        assert made.count('class="dot s0"') == len(known)
        assert made.count('class="missing"') == len(losses) - len(known)
        assert not re.search("nan|inf", made)


def test_a_single_version_stands_in_the_middle() -> None:
    made = versions_chart("k", {"task": "a", "versions": [version(1, 0.5)]})
    assert made is not None and 'transform="translate(377.0 ' in made  # between the margins


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (8, 8), (13, 7), (40, 7)])
def test_of_many_versions_the_last_has_a_label(count: int, shown: int) -> None:
    versions = [version(number, 0.5) for number in range(1, count + 1)]
    made = versions_chart("k", {"task": "a", "versions": versions})
    labels = [int(label) for label in re.findall(r">v(\d+)<", made or "")]
    assert (labels[-1], len(labels)) == (count, shown)
    assert len({b - a for a, b in itertools.pairwise(labels)}) <= 1


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


def map_of(count: int, *rows: Row, outside: tuple[Row, ...] = ()) -> HeatMap:
    """Return a map of layers."""
    return HeatMap("a, keep", "PASS", tuple(range(count)), rows, outside)


@given(st.integers(1, 130), st.integers(0, 129))
@settings(max_examples=50)
def test_a_map_fits_and_has_every_adapted_layer_and_no_other(count: int, first: int) -> None:
    cells = tuple(None if layer < first else 0.5 for layer in range(count))
    made = heat_map_picture("k", map_of(count, Row("q_proj", cells)))
    assert 'class="nothing"' not in made
    assert len(re.findall(r"<rect [^>]*rx=", made)) == max(0, count - first)
    width = int(re.findall(r'width="(\d+)" height', made)[0])
    assert width <= WIDTH
    boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', made)
    assert all(float(x) + float(wide) <= width for x, wide in boxes)
