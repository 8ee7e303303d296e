from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.training.curve import Curve, Point, curve_from, point_view, sparkline

LOSS = st.none() | st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(
    st.builds(Point, st.integers(0, 50), train_loss=LOSS, val_loss=LOSS, learning_rate=LOSS), max_size=30
)


@given(POINTS)
def test_a_curve_is_in_order_and_finite_and_forgets_nothing(points: list[Point]) -> None:
    curve = Curve.of(points)
    iterations = [point.iteration for point in curve.points]
    assert iterations == sorted({point.iteration for point in points})
    for point in curve.points:
        said = [p.val_loss for p in points if p.iteration == point.iteration and p.val_loss is not None]
        finite = [loss for loss in said if math.isfinite(loss)]
        assert point.val_loss == (finite[-1] if finite else None)
        assert (point.iteration in curve.not_finite) >= (len(finite) < len(said))


@given(POINTS)
def test_a_curve_of_its_own_points_is_the_same(points: list[Point]) -> None:
    curve = Curve.of(points)
    assert Curve.of(curve.points).points == curve.points
    assert curve_from(map(point_view, curve.points)).points == curve.points


@given(POINTS, st.integers(0, 60))
def test_what_is_known_at_a_checkpoint_is_what_was_measured_until_then(points: list[Point], at: int) -> None:
    curve = Curve.of(points)
    before = curve.until(at)
    assert before.points == tuple(point for point in curve.points if point.iteration <= at)
    assert curve.until(None) == curve


def test_the_best_is_the_lowest_and_the_later_of_equals_and_never_the_start() -> None:
    losses = {1: 0.1, 100: 0.5, 200: 0.3, 300: 0.3, 400: 0.9}
    curve = Curve.of(Point(at, val_loss=loss) for at, loss in losses.items())
    assert curve.best() == (300, 0.3)
    assert curve.last() == (400, 0.9)
    assert curve.start_loss == 0.1
    assert Curve().best() is None
    assert Curve().last() is None


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 60))
def test_a_sparkline_fits_and_shows_the_lowest_lowest(losses: list[float], width: int) -> None:
    line = sparkline(losses, width)
    assert len(line) == min(len(losses), width)
    if 0 < len(losses) <= width:
        assert line[losses.index(min(losses))] == "▁"
        if max(losses) > min(losses):
            assert line[losses.index(max(losses))] == "█"
