"""Maps of layers and modules: of fidelity on a page and in a file, and whatever else has a number for each module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..engine.verdict import DEGRADED_FROM, PASS_FROM, closeness
from . import svg
from .files import rendered
from .heat_map import HeatMap, Row
from .text import finite, number, share, short

Colour = tuple[int, int, int]


def colours(written: str) -> tuple[Colour, ...]:
    """Return colours that are written as six hexadecimal digits each."""
    return tuple((each[0], each[1], each[2]) for each in map(bytes.fromhex, written.split()))


VIRIDIS = colours(
    "440154 471365 482475 463480 414487 3b528b 355f8d 2f6c8e 2a788e 25848e 21918c "
    "1e9c89 22a884 2fb47c 44bf70 5ec962 7ad151 9bd93c bddf26 dfe318 fde725"
)
"""matplotlib's: told apart by the colour-blind, and by their brightness on paper."""

WIDTH = 860
FILE_WIDTH = 2400
"""Pixels that a map in a file fits into."""

_WIDE, _NARROW, _HIGH = 40, 20, 26
"""Of a cell with a number in it, and of one with a mark at most."""

_LEAST = 420
_STEPS = 40


@dataclass(frozen=True, slots=True)
class Shades:
    """From numbers to colours, and to what is written in a cell.

    Attributes:
        name: what the numbers are, in a word.
        stops: colours from the lowest to the highest.
        low: what has the first colour, and all that is below.
        high: what has the last one, and all that is above.
        marks: numbers that the scale shows.
        shares: they are shares retained: written as percentages, with a mark where a verdict changes.
    """

    name: str
    stops: tuple[Colour, ...]
    low: float
    high: float
    marks: tuple[float, ...]
    shares: bool = False

    def colour(self, value: float) -> Colour:
        """Return the colour of a number."""
        part = (value - self.low) / (self.high - self.low)
        at = min(max(part, 0.0), 1.0) * (len(self.stops) - 1)
        low = min(int(at), len(self.stops) - 2)
        red, green, blue = (
            round(a + (b - a) * (at - low)) for a, b in zip(self.stops[low], self.stops[low + 1], strict=True)
        )
        return red, green, blue

    def written(self, value: float, wide: bool) -> str:
        """Return what is in a cell: a number where there is room for one, and a mark that tells what no colour has to."""
        if not self.shares:
            return "" if not wide else f"{value:z.2f}" if abs(value) < 10 else f"{min(value, 9999):.0f}"
        close = closeness(value)
        mark = "×" if close < DEGRADED_FROM else "–" if close < PASS_FROM else ""
        return f"{100 * value:.0f} {mark}".rstrip() if wide else mark


RETAINED = Shades("retained", VIRIDIS, 0.0, 1.0, (0.0, DEGRADED_FROM, PASS_FROM, 1.0), shares=True)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A map that was drawn.

    Attributes:
        parts: what is in it.
        right: pixels to the right of which there is nothing of it.
        bottom: pixels below which there is nothing of it.
    """

    parts: list[Markup]
    right: int
    bottom: int


def draw(picture: HeatMap, kind: str) -> bytes:
    """Return a map of fidelity as a PNG or SVG file, with all layers.

    Args:
        picture: what to draw.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: a PNG is wanted, and what draws it is not installed.
    """
    left = room_for([*picture.rows, *picture.outside])
    made = drawn(picture.layers, picture.rows, picture.outside, RETAINED, left, FILE_WIDTH, 4)
    told = (
        f"× below {100 * DEGRADED_FROM:.0f} or above {100 * (2 - DEGRADED_FROM):.0f} %: lost; "
        f"– below {100 * PASS_FROM:.0f} or above {100 * (2 - PASS_FROM):.0f} %: degraded; grey: not adapted"
    )
    return rendered(
        svg.document(
            picture.title,
            "The share of the adapter's update that is in the written weights, by layer and module.",
            max(made.right, left + _LEAST),
            made.bottom + 36,
            [*made.parts, svg.text(left, made.bottom + 18, told)],
            below=picture.subtitle,
        ),
        kind,
    )


def room_for(rows: Sequence[Row]) -> int:
    """Return the pixels that the labels of rows take, and some between them and the cells."""
    return max(124, 24 + 7 * max((len(row.label) for row in rows), default=0))


def drawn(
    layers: Sequence[int],
    rows: Sequence[Row],
    outside: Sequence[Row],
    shades: Shades,
    left: int,
    width: int,
    top: float,
) -> Drawn:
    """Draw the rows of the layers, those outside of them, and the scale of colours.

    Where there are more layers than the width has room for, they stand in bands below each other.

    Args:
        layers: their numbers.
        rows: kinds of modules within them, with a cell for each layer.
        outside: modules outside of them, each a row of one cell.
        shades: what the numbers look like.
        left: pixels for the labels.
        width: pixels that it fits into.
        top: pixel at which it begins.
    """
    room = width - left - 16
    wide = _WIDE if len(layers) * _WIDE <= room else _NARROW
    most = max(1, room // wide)
    bands = max(1, math.ceil(len(layers) / most))
    each = max(1, math.ceil(len(layers) / bands))
    parts: list[Markup] = []
    for start in range(0, len(layers), each):
        part = slice(start, start + each)
        parts += _cells([Row(row.label, row.cells[part]) for row in rows], shades, left, wide, top)
        top += _HIGH * len(rows)
        parts += _layer_numbers(layers[part], left, wide, top)
        top += 40
    parts += _cells(outside, shades, left, _WIDE, top)
    top += _HIGH * len(outside) + 14
    parts += _legend(shades, left, top, min(6.0, (width - left - 24) / _STEPS))
    return Drawn(parts, left + wide * each + 16, int(top + 44))


def heat_map_picture(key: str, view: Mapping[str, Any], width: int = WIDTH) -> Markup | None:
    """Return the map of one fused model for a page; None where nothing is known of its modules.

    Layers without a module that was adapted are left out.

    Args:
        key: unique on the page.
        view: a map of the facts.
        width: pixels that it fits into, at least 320.
    """
    layers, rows = touched(view)
    inside, outside = (
        [Row(row["label"], tuple(row["cells"])) for row in each] for each in (rows, view["outside"])
    )
    if not inside and not outside:
        return None
    made = drawn(layers, inside, outside, RETAINED, 124 if width > _LEAST else 104, width, 10.0)
    return svg.picture(
        key,
        f"Fidelity of {view['name']}, {view['format']}",
        _told(view),
        max(min(_LEAST, width), made.right),
        made.bottom,
        made.parts,
        kind="fixed",
    )


def touched(view: Mapping[str, Any]) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the layers in which some module was adapted, and the rows of a map with the cells of those alone."""
    kept = [
        at for at in range(len(view["layers"])) if any(row["cells"][at] is not None for row in view["rows"])
    ]
    rows = [{**row, "cells": [row["cells"][at] for at in kept]} for row in view["rows"]] if kept else []
    return [view["layers"][at] for at in kept], rows


def _told(view: Mapping[str, Any]) -> str:
    cells = [cell for row in [*view["rows"], *view["outside"]] for cell in row["cells"] if cell is not None]
    worst = min(cells, key=closeness, default=None)
    return (
        f"The share of the adapter's update that is in the written weights, by layer and module: "
        f"{share(view['fidelity']['retained'])} overall, {share(worst)} where it is furthest from 100 %. "
        f"The table below has the numbers."
    )


def _cells(rows: Sequence[Row], shades: Shades, left: int, wide: int, top: float) -> Iterator[Markup]:
    for down, row in enumerate(rows):
        y = top + _HIGH * down
        yield svg.text(left - 10, y + 17, short(row.label, left // 7 - 1), anchor="end")
        for across, cell in enumerate(row.cells):
            yield from _cell(finite(cell), shades, left + wide * across, y, wide)


def _cell(value: float | None, shades: Shades, x: float, y: float, wide: int) -> Iterator[Markup]:
    box = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": _HIGH - 2, "rx": 2}
    if value is None:
        yield svg.element("rect", **box, class_="nothing")
        return
    colour = shades.colour(value)
    told = svg.element("title", share(value) if shades.shares else number(value))
    yield svg.element("rect", told, **box, fill=f"#{bytes(colour).hex()}")
    kind = "on-light" if _brightness(colour) > 0.18 else "on-dark"
    if written := shades.written(value, wide == _WIDE):
        yield svg.text(x + wide / 2, y + 17.5, written, kind, "middle")


def _brightness(colour: Colour) -> float:
    """Return the relative luminance, as the rules for contrast have it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (each / 255 for each in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _layer_numbers(layers: Sequence[int], left: int, wide: int, bottom: float) -> Iterator[Markup]:
    every = 1 if wide == _WIDE else 2
    for at, layer in enumerate(layers):
        if at % every == 0:
            yield svg.text(left + wide * (at + 0.5), bottom + 16, str(layer), anchor="middle")
    yield svg.text(left - 10, bottom + 16, "layer", anchor="end")


def _legend(shades: Shades, left: int, top: float, wide: float) -> Iterator[Markup]:
    """Yield the scale of colours, with the numbers that it shows."""
    run = svg.Scale(shades.low, shades.high, left, left + _STEPS * wide)
    for at in range(_STEPS):
        value = shades.low + (at + 0.5) / _STEPS * (shades.high - shades.low)
        colour = f"#{bytes(shades.colour(value)).hex()}"
        yield svg.element("rect", x=left + wide * at, y=top, width=wide + 0.5, height=10, fill=colour)
    for value in shades.marks:
        yield svg.line(run(value), top, run(value), top + 14, "axis")
        told = f"{100 * value:.0f} %" if shades.shares else number(value, 3)
        yield svg.text(run(value), top + 28, told, anchor="middle")
    yield svg.text(left - 10, top + 9, shades.name, anchor="end")
