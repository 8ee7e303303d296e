"""Training curves: on a page, in a file over one another, and the one that goes with a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from . import svg
from .files import rendered
from .text import finite, short

CURVE = "curve.svg"
"""Name of the file in a bundle."""

WIDTH = 720
_LEFT, _RIGHT = 60, 26
_COLOURS = 6
_MOST = 800
"""Points of a line that are drawn: there are no more columns of pixels."""
_TOLD = "Loss by iteration; validation loss with marks, training loss as a thin line."

Line = list[tuple[float, float]]


def curves_chart(key: str, section: Mapping[str, Any], width: int = WIDTH) -> Markup | None:
    """Return training curves: validation loss with marks, training loss as a thin line; None where there are none."""
    curves = [_curve(each["points"]) for each in section["curves"]]
    if not any(line for curve in curves for line in curve):
        return None
    names = ", ".join(f"v{curve['version']}" for curve in section["curves"])
    return svg.picture(
        key,
        f"Learning curves of {section['task']}: {names}",
        f"{_TOLD} The tables below have the numbers.",
        width,
        296,
        _drawn(curves, width, 244),
    )


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> bytes:
    """Return curves over one another as a PNG or SVG file, with their names below.

    Args:
        curves: the points of each adapter by its name, as `compare.compare_adapters` returns them.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: a PNG is wanted, and what draws it is not installed.
    """
    parts = _drawn([_curve(points) for points in curves.values()], WIDTH, 344)
    for at, (name, points) in enumerate(curves.items()):
        y = 412 + 18 * at
        parts += [Markup(f'<g transform="translate({_LEFT} {y - 12})">'), *_swatch(at), Markup("</g>")]
        parts.append(svg.text(_LEFT + 38, y, short(name, 90) if points else f"{short(name, 80)} (no curve)"))
    return rendered(
        svg.document(
            "Training curves",
            f"{_TOLD} Of {', '.join(curves)}.",
            WIDTH,
            412 + 18 * len(curves),
            parts,
            below="loss by iteration: validation with marks, training thin",
        ),
        kind,
    )


def curve_svg(points: Any) -> bytes | None:
    """Return the picture of a curve for a bundle, None where it has not two points of one kind.

    Args:
        points: as `point_view` has them: `iteration`, `train_loss`, `val_loss`; anything else is passed over.
    """
    rows = [row for row in points if isinstance(row, Mapping)] if isinstance(points, list) else []
    curve = _curve(rows)
    if max(map(len, curve)) < 2:
        return None
    told = "loss by iteration: validation with marks, training thin"
    return svg.document("Training curve", _TOLD, WIDTH, 296, _drawn([curve], WIDTH, 244), below=told).encode()


def _curve(points: Sequence[Mapping[str, Any]]) -> tuple[Line, Line]:
    """Return the points of validation and of training, thinned to what can be seen."""
    found: list[Line] = []
    for kind in ("val_loss", "train_loss"):
        both = ((finite(point.get("iteration")), finite(point.get(kind))) for point in points)
        known = sorted((x, y) for x, y in both if x is not None and y is not None)
        step = -(-len(known) // _MOST) or 1
        found.append(known if step == 1 else [*known[:-1:step], known[-1]])
    return found[0], found[1]


def _drawn(curves: Sequence[tuple[Line, Line]], width: int, bottom: float) -> list[Markup]:
    """Return curves and their axes, with the iterations below the bottom."""
    points = [point for curve in curves for line in curve for point in line]
    rise, ticks = svg.axis([loss for _, loss in points], bottom, 20)
    steps = [0.0, *(step for step, _ in points)]
    run, marks = svg.axis(steps, _LEFT, width - _RIGHT, about=6 if width >= WIDTH else 3)
    parts = [*svg.grid(rise, ticks, _LEFT, width - _RIGHT)]
    for value in filter(float.is_integer, marks):
        parts.append(svg.text(run(value), bottom + 22, f"{value:,.0f}", anchor="middle"))
    parts.append(svg.text((_LEFT + width - _RIGHT) / 2, bottom + 42, "iteration", anchor="middle"))
    for at, (validated, trained) in enumerate(curves):
        for line, kind in ((trained, "thin"), (validated, "curve")):
            if len(line) > 1:
                parts.append(svg.path([(run(x), rise(y)) for x, y in line], f"{kind} {_told_apart(at)}"))
        every = max(1, len(validated) // 12)
        parts += [_mark(run(x), rise(y), at) for x, y in validated[::every]]
    return parts


def _told_apart(at: int) -> str:
    """Return the colour of a curve, and of more curves than there are colours the dashes."""
    dashes = at // _COLOURS % 4
    return f"s{at % _COLOURS}" + (f" d{dashes}" if dashes else "")


def _mark(x: float, y: float, at: int) -> Markup:
    return svg.mark(x, y, at + at // _COLOURS, f"dot s{at % _COLOURS}")


def _swatch(at: int) -> Iterator[Markup]:
    yield svg.path([(1, 8), (27, 8)], f"curve {_told_apart(at)}")
    yield _mark(14, 8, at)


def swatch(at: int) -> Markup:
    """Return the mark of a curve for a legend; decoration beside its name."""
    return svg.element(
        "svg", _swatch(at), viewBox="0 0 28 16", width=28, height=16, aria_hidden="true", class_="swatch"
    )
