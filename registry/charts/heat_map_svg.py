"""A picture of fidelity: layer by module, with the share of the update that is in the written weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..engine.fidelity import DEGRADED_FROM, PASS_FROM
from . import svg
from .text import finite, share, short

_VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
    (253, 231, 37),
)
"""The colours of matplotlib's viridis: told apart by the colour-blind, and by their brightness on paper."""

WIDTH = 860
_WIDE, _NARROW, _HIGH = 40, 20, 26
"""Of a cell with a number in it, and of one with a mark at most."""

_LEAST = 420


def heat_map_picture(key: str, view: Mapping[str, Any], width: int = WIDTH) -> Markup | None:
    """Return the map of one fused model; None where nothing is known of its modules.

    Layers without a module that was adapted are left out, and where there are more than the width has room for, they stand
    in bands below each other.

    Args:
        key: unique on the page.
        view: a map of the facts.
        width: pixels that it fits into, at least 320.
    """
    layers, rows = touched(view)
    outside = view["outside"]
    if not rows and not outside:
        return None
    left = 124 if width > _LEAST else 104
    room = width - left - 16
    wide = _WIDE if len(layers) * _WIDE <= room else _NARROW
    most = max(1, room // wide)
    bands = max(1, math.ceil(len(layers) / most))
    each = max(1, math.ceil(len(layers) / bands))
    parts: list[Markup] = []
    bottom = 10.0
    for start in range(0, len(layers), each):
        part = slice(start, start + each)
        parts += _cells([{**row, "cells": row["cells"][part]} for row in rows], left, wide, bottom)
        bottom += _HIGH * len(rows)
        parts += _layer_numbers(layers[part], left, wide, bottom)
        bottom += 40
    parts += _cells(outside, left, _WIDE, bottom)
    bottom += _HIGH * len(outside) + 14
    parts += _legend(left, bottom, min(6.0, (width - left - 24) / _STEPS))
    return svg.picture(
        key,
        f"Fidelity of {view['name']}, {view['format']}",
        _told(view),
        max(min(_LEAST, width), left + wide * each + 16),
        int(bottom + 44),
        parts,
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
    low = min(cells, default=None)
    return (
        f"The share of the adapter's update that is in the written weights, by layer and module: "
        f"{share(view['fidelity']['retained'])} overall, {share(low)} where it is least. "
        f"The table below has the numbers."
    )


def _cells(rows: Sequence[Mapping[str, Any]], left: int, wide: int, top: float) -> Iterator[Markup]:
    for down, row in enumerate(rows):
        y = top + _HIGH * down
        yield svg.text(left - 10, y + 17, short(row["label"], left // 7 - 1), anchor="end")
        for across, cell in enumerate(row["cells"]):
            yield from _cell(finite(cell), left + wide * across, y, wide)


def _cell(value: float | None, x: float, y: float, wide: int) -> Iterator[Markup]:
    if value is None:
        yield svg.element("rect", x=x + 1, y=y + 1, width=wide - 2, height=_HIGH - 2, rx=2, class_="nothing")
        return
    colour = _colour(value)
    yield svg.element(
        "rect",
        svg.element("title", share(value)),
        x=x + 1,
        y=y + 1,
        width=wide - 2,
        height=_HIGH - 2,
        rx=2,
        fill=f"#{bytes(colour).hex()}",
    )
    kind = "on-light" if _brightness(colour) > 0.18 else "on-dark"
    if wide == _WIDE:
        yield svg.text(x + wide / 2, y + 17.5, f"{100 * value:.0f}", kind, "middle")
    elif value < PASS_FROM:
        mark = "×" if value < DEGRADED_FROM else "–"
        yield svg.text(x + wide / 2, y + 17.5, mark, kind, "middle")


def _colour(value: float) -> tuple[int, int, int]:
    at = min(max(value, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    part = at - low
    red, green, blue = (
        round(a + (b - a) * part) for a, b in zip(_VIRIDIS[low], _VIRIDIS[low + 1], strict=True)
    )
    return red, green, blue


def _brightness(colour: tuple[int, int, int]) -> float:
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


_STEPS = 40


def _legend(left: int, top: float, wide: float) -> Iterator[Markup]:
    """Yield the scale of colours, with the shares where a verdict changes."""
    for at in range(_STEPS):
        colour = _colour((at + 0.5) / _STEPS)
        yield svg.element(
            "rect",
            x=left + wide * at,
            y=top,
            width=wide + 0.5,
            height=10,
            fill=f"#{bytes(colour).hex()}",
        )
    for value in (0.0, DEGRADED_FROM, PASS_FROM, 1.0):
        x = left + _STEPS * wide * value
        yield svg.line(x, top, x, top + 14, "axis")
        yield svg.text(x, top + 28, f"{100 * value:.0f} %", anchor="middle")
    yield svg.text(left - 10, top + 9, "retained", anchor="end")
