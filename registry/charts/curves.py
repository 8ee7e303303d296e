"""Training curves, on a page, in a file and in a bundle; and the validation losses of a task's versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..parsing import plural
from . import svg
from .text import finite, number, short

CURVE = "curve.svg"  # the name of the file in a bundle
WIDTH = 720
_LEFT, _RIGHT = 60, 26
_COLOURS = 6
_MOST = 800  # points of a line: there are no more columns of pixels
_CAPTION = "Loss by iteration; validation loss with marks, training loss as a thin line."

Line = list[tuple[float, float]]


def curves_chart(key: str, section: Mapping[str, Any]) -> Markup | None:
    """Return training curves: validation loss with marks, training loss as a thin line; None without points."""
    curves = [_curve(version_curve["points"]) for version_curve in section["curves"]]
    if not any(line for curve in curves for line in curve):
        return None
    names = ", ".join(f"v{curve['version']}" for curve in section["curves"])
    return svg.picture(
        key,
        f"Learning curves of {section['task']}: {names}",
        f"{_CAPTION} The tables below have the numbers.",
        WIDTH,
        296,
        _drawn(curves, 244),
    )


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> bytes:
    """Return curves over one another as a PNG or SVG file, with their names below."""
    parts = _drawn([_curve(points) for points in curves.values()], 344)
    for at, (name, points) in enumerate(curves.items()):
        y = 412 + 18 * at
        parts += [Markup(f'<g transform="translate({_LEFT} {y - 12})">'), *_swatch(at), Markup("</g>")]
        parts.append(svg.text(_LEFT + 38, y, short(name, 90) if points else f"{short(name, 80)} (no curve)"))
    return svg.rendered(
        svg.document(
            "Training curves",
            f"{_CAPTION} Of {', '.join(curves)}.",
            WIDTH,
            412 + 18 * len(curves),
            parts,
            below="loss by iteration: validation with marks, training thin",
        ),
        kind,
    )


def curve_svg(points: Any) -> bytes | None:
    """Return the picture of a curve for a bundle, None where it has not two points of one kind."""
    rows = [row for row in points if isinstance(row, Mapping)] if isinstance(points, list) else []
    curve = _curve(rows)
    if max(map(len, curve)) < 2:
        return None
    caption = "loss by iteration: validation with marks, training thin"
    return svg.document("Training curve", _CAPTION, WIDTH, 296, _drawn([curve], 244), below=caption).encode()


def _curve(points: Sequence[Mapping[str, Any]]) -> tuple[Line, Line]:
    lines: list[Line] = []
    for kind in ("val_loss", "train_loss"):
        both = ((finite(point.get("iteration")), finite(point.get(kind))) for point in points)
        line_points = sorted((x, y) for x, y in both if x is not None and y is not None)
        step = -(-len(line_points) // _MOST) or 1
        lines.append(line_points if step == 1 else [*line_points[:-1:step], line_points[-1]])
    return lines[0], lines[1]


def _drawn(curves: Sequence[tuple[Line, Line]], bottom: float) -> list[Markup]:
    points = [point for curve in curves for line in curve for point in line]
    rise, ticks = svg.axis([loss for _, loss in points], bottom, 20)
    steps = [0.0, *(step for step, _ in points)]
    run, marks = svg.axis(steps, _LEFT, WIDTH - _RIGHT, about=6)
    parts = [*svg.grid(rise, ticks, _LEFT, WIDTH - _RIGHT)]
    for value in filter(float.is_integer, marks):
        parts.append(svg.text(run(value), bottom + 22, f"{value:,.0f}", anchor="middle"))
    parts.append(svg.text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 42, "iteration", anchor="middle"))
    for at, (validated, trained) in enumerate(curves):
        for line, kind in ((trained, "thin"), (validated, "curve")):
            if len(line) > 1:
                parts.append(svg.path([(run(x), rise(y)) for x, y in line], f"{kind} {_line_style(at)}"))
        every = max(1, len(validated) // 12)
        parts += [_mark(run(x), rise(y), at) for x, y in validated[::every]]
    return parts


def _line_style(at: int) -> str:
    dashes = at // _COLOURS % 4
    return f"s{at % _COLOURS}" + (f" d{dashes}" if dashes else "")


def _mark(x: float, y: float, at: int) -> Markup:
    return svg.mark(x, y, at + at // _COLOURS, f"dot s{at % _COLOURS}")


def _swatch(at: int) -> Iterator[Markup]:
    yield svg.path([(1, 8), (27, 8)], f"curve {_line_style(at)}")
    yield _mark(14, 8, at)


def swatch(at: int) -> Markup:
    """Return the mark of a curve for a legend; decoration beside its name."""
    return svg.element(
        "svg", _swatch(at), viewBox="0 0 28 16", width=28, height=16, aria_hidden="true", class_="swatch"
    )


_ROW = 18
_MOST_FLAGS = 5
_APART = 78  # the least pixels between labels of versions: a date is as long


def versions_chart(key: str, section: Mapping[str, Any]) -> Markup | None:
    """Return validation loss by version, with the aliases that hold one; None where no loss is known."""
    versions = section["versions"]
    losses = [finite(version["val_loss"]) for version in versions]
    recorded_losses = [loss for loss in losses if loss is not None]
    if not recorded_losses:
        return None
    # Aliases, and the places of the versions that hold them.
    flags = [(alias, at) for at, row in enumerate(versions) for alias in row["aliases"]][-_MOST_FLAGS:]
    top, height = 16 + _ROW * len(flags), 250 + _ROW * len(flags)
    bottom = height - 46
    rise, ticks = svg.axis(recorded_losses, bottom, top + 8)
    step = (WIDTH - _LEFT - _RIGHT - 28) / max(1, len(versions) - 1)
    places = [_LEFT + 14 + step * at for at in range(len(versions))]
    if len(versions) == 1:
        places = [(_LEFT + WIDTH - _RIGHT) / 2]
    parts = [*svg.grid(rise, ticks, _LEFT, WIDTH - _RIGHT), *_version_labels(versions, places, step, bottom)]
    parts += _flagged(flags, places, [bottom if loss is None else rise(loss) for loss in losses])
    measured = [(at, rise(loss)) for at, loss in zip(places, losses, strict=True) if loss is not None]
    parts.append(svg.path(measured, "curve s0"))
    for version, at, loss in zip(versions, places, losses, strict=True):
        parts += _point(version, at, bottom if loss is None else rise(loss), loss)
    return svg.picture(
        key,
        f"Validation loss of {section['task']} by version",
        _losses_in_words(versions, losses),
        WIDTH,
        height,
        parts,
    )


def _losses_in_words(versions: Sequence[Mapping[str, Any]], losses: Sequence[float | None]) -> str:
    loss_versions = [
        (loss, version["version"]) for version, loss in zip(versions, losses, strict=True) if loss is not None
    ]
    best = min(loss_versions)
    return (
        f"{plural(len(loss_versions), 'version')} with a validation loss, from {number(loss_versions[0][0])} at version {loss_versions[0][1]} "
        f"to {number(loss_versions[-1][0])} at version {loss_versions[-1][1]}; the lowest is {number(best[0])}, at version {best[1]}. "
        "The table below has all of them."
    )


def _version_labels(
    versions: Sequence[Mapping[str, Any]], places: Sequence[float], step: float, bottom: float
) -> Iterator[Markup]:
    every = max(1, -(-_APART // max(1, int(step))))
    for at, (version, x) in enumerate(zip(versions, places, strict=True)):
        if (len(versions) - 1 - at) % every == 0:
            date = version["date"]
            yield svg.text(x, bottom + 22, f"v{version['version']}", "label strong", "middle")
            yield svg.text(x, bottom + 38, f"{date[:4]}-{date[4:6]}-{date[6:]}", "label", "middle")


def _flagged(
    flags: Sequence[tuple[str, int]],
    places: Sequence[float],
    heights: Sequence[float],
) -> Iterator[Markup]:
    for row, (alias, at) in enumerate(flags):
        x, y = places[at], 14.0 + _ROW * row
        left = x < WIDTH / 2
        yield svg.line(x, y - 9, x, heights[at] - 8, "flag")
        yield svg.text(
            x + (7 if left else -7), y, f"#{short(alias, 24)}", "flagged", "start" if left else "end"
        )


def _point(version: Mapping[str, Any], x: float, y: float, loss: float | None) -> Iterator[Markup]:
    tooltip = f"{version['name']}: {'no validation loss' if loss is None else number(loss)}"
    if version["yanked"]:
        yield svg.mark(x, y, 0, "ring yanked", f"{tooltip}, withdrawn")
        yield svg.path([(x - 6, y - 6), (x + 6, y + 6)], "cross")
        yield svg.path([(x - 6, y + 6), (x + 6, y - 6)], "cross")
    elif loss is None:
        yield svg.line(x, y - 5, x, y + 5, "missing")
    else:
        yield svg.mark(x, y, 0, "dot s0", tooltip)
