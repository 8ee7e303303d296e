"""A picture of fidelity: layer by module, with the share of the update that is in the written weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..fusion.fidelity import DEGRADED_FROM, PASS_FROM
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

_LEFT = 124
_WIDE, _NARROW, _HIGH = 40, 20, 26
_MOST_WIDE = 14
"""Layers up to which there is room for a number in each cell."""

_LEAST = 420


def heat_map_picture(key: str, view: Mapping[str, Any]) -> Markup | None:
    """Return the map of one fused model; None where nothing is known of its modules."""
    rows, outside = view["rows"], view["outside"]
    if not rows and not outside:
        return None
    columns = max(1, len(view["layers"]))
    wide = _WIDE if columns <= _MOST_WIDE else _NARROW
    width = max(_LEAST, _LEFT + wide * columns + 16)
    parts = list(_cells(rows, wide, 10))
    bottom = 10 + _HIGH * len(rows)
    if rows:
        parts += _layer_numbers(view["layers"], wide, bottom)
        bottom += 40
    parts += _cells(outside, _WIDE, bottom)
    bottom += _HIGH * len(outside) + 14
    parts += _legend(bottom)
    return svg.picture(
        key,
        f"Fidelity of {view['name']}, {view['format']}",
        _told(view),
        width,
        bottom + 44,
        parts,
        kind="fixed",
    )


def _told(view: Mapping[str, Any]) -> str:
    cells = [cell for row in [*view["rows"], *view["outside"]] for cell in row["cells"] if cell is not None]
    low = min(cells, default=None)
    return (
        f"The share of the adapter's update that is in the written weights, by layer and module: "
        f"{share(view['fidelity']['retained'])} overall, {share(low)} where it is least. "
        f"The table below has the numbers."
    )


def _cells(rows: Sequence[Mapping[str, Any]], wide: int, top: float) -> Iterator[Markup]:
    for down, row in enumerate(rows):
        y = top + _HIGH * down
        yield svg.text(_LEFT - 10, y + 17, short(row["label"], 17), anchor="end")
        for across, cell in enumerate(row["cells"]):
            yield from _cell(finite(cell), _LEFT + wide * across, y, wide)


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


def _layer_numbers(layers: Sequence[int], wide: int, bottom: float) -> Iterator[Markup]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(layers) / step <= 40)
    if wide == _NARROW:
        step = max(2, step)
    for at, layer in enumerate(layers):
        if layer % step == 0:
            yield svg.text(_LEFT + wide * (at + 0.5), bottom + 16, str(layer), anchor="middle")
    yield svg.text(_LEFT - 10, bottom + 16, "layer", anchor="end")


def _legend(top: float) -> Iterator[Markup]:
    """Yield the scale of colours, with the shares where a verdict changes."""
    steps, wide = 40, 6
    for at in range(steps):
        colour = _colour((at + 0.5) / steps)
        yield svg.element(
            "rect",
            x=_LEFT + wide * at,
            y=top,
            width=wide + 0.5,
            height=10,
            fill=f"#{bytes(colour).hex()}",
        )
    for value in (0.0, DEGRADED_FROM, PASS_FROM, 1.0):
        x = _LEFT + steps * wide * value
        yield svg.line(x, top, x, top + 14, "axis")
        yield svg.text(x, top + 28, f"{100 * value:.0f} %", anchor="middle")
    yield svg.text(_LEFT - 10, top + 9, "retained", anchor="end")
