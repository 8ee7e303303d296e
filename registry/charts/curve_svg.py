"""The picture of a training curve in a bundle: an SVG of numbers alone, so that the same curve gives the same bytes anywhere.

matplotlib, which draws for `show --plot`, is an extra that whoever ships a model need not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

CURVE = "curve.svg"
"""Name of the file in a bundle."""

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 44
_TRAIN, _VALIDATION, _GRID, _TEXT = "#d55e00", "#0072b2", "#d0d0d0", "#777777"
_MOST = 800
"""Points of a line that are drawn: there are no more columns of pixels."""

Line = list[tuple[float, float]]


def curve_svg(points: Any) -> bytes | None:
    """Return the picture of a curve, None where it has not two points of one kind.

    Args:
        points: as `point_view` has them: `iteration`, `train_loss`, `val_loss`; anything else is passed over.
    """
    rows = [row for row in points if isinstance(row, Mapping)] if isinstance(points, list) else []
    train, validation = (_line(rows, key) for key in ("train_loss", "val_loss"))
    if max(len(train), len(validation)) < 2:
        return None
    every = [*train, *validation]
    across = _Axis([x for x, _ in every], _LEFT, _WIDTH - _RIGHT)
    down = _Axis([y for _, y in every], _HEIGHT - _BOTTOM, _TOP)
    return "".join(f"{line}\n" for line in _document(train, validation, across, down)).encode("ascii")


def _line(rows: Iterable[Mapping[str, Any]], key: str) -> Line:
    """Return what is known of one loss, thinned to what can be seen."""
    known = [
        (float(row["iteration"]), float(row[key]))
        for row in rows
        if _is_number(row.get("iteration")) and _is_number(row.get(key))
    ]
    known.sort()
    step = -(-len(known) // _MOST) or 1
    return known if step == 1 else [*known[:-1:step], known[-1]]


def _is_number(value: Any) -> bool:
    # Beyond this a loss is no loss, and the differences of two are no longer finite.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


class _Axis:
    """From numbers to places on the picture, with round numbers marked."""

    def __init__(self, values: list[float], start: int, end: int) -> None:
        low, high = min(values), max(values)
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self._start, self._end = low, high, start, end

    def place(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self._start + share * (self._end - self._start):.2f}"

    def marks(self) -> Iterator[float]:
        """Yield three to seven round numbers of the range."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * each for each in (1, 2, 5, 10) if unit * each >= rough)
        number = math.ceil(self.low / step)
        while number * step <= self.high:
            yield number * step
            number += 1


def _document(train: Line, validation: Line, across: _Axis, down: _Axis) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="training curve" '
        f'font-family="sans-serif" font-size="11" fill="{_TEXT}">'
    )
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value in down.marks():
        y = down.place(value)
        yield f'<path d="M{_LEFT} {y}H{right}" stroke="{_GRID}" stroke-width="0.6"/>'
        yield f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{value:.4g}</text>'
    for value in across.marks():
        x = across.place(value)
        yield f'<path d="M{x} {bottom}v4" stroke="{_TEXT}"/>'
        yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value:.10g}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="{_TEXT}"/>'
    yield f'<text x="{(_LEFT + right) // 2}" y="{_HEIGHT - 10}" text-anchor="middle">iteration</text>'
    for number, (name, line, colour, width) in enumerate(
        (("training loss", train, _TRAIN, "1"), ("validation loss", validation, _VALIDATION, "2"))
    ):
        if not line:
            continue
        path = " ".join(f"{across.place(x)},{down.place(y)}" for x, y in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        yield f'<text x="{_LEFT + 130 * number}" y="16" fill="{colour}">{name}</text>'
    yield "</svg>"
