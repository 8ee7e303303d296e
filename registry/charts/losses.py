"""A picture of the validation losses of a task's versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..parsing import plural
from . import svg
from .text import finite, number, short

WIDTH = 720
_LEFT, _RIGHT = 60, 26
_ROW = 18
_MOST_FLAGS = 5
_APART = 78
"""Pixels between labels of versions, at least: a date is as long."""


def versions_chart(key: str, section: Mapping[str, Any], width: int = WIDTH) -> Markup | None:
    """Return validation loss by version, with the aliases that hold one; None where no loss is known."""
    versions = section["versions"]
    losses = [finite(version["val_loss"]) for version in versions]
    known = [loss for loss in losses if loss is not None]
    if not known:
        return None
    flags = _flags(versions)
    top, height = 16 + _ROW * len(flags), 250 + _ROW * len(flags)
    bottom = height - 46
    rise, ticks = svg.axis(known, bottom, top + 8)
    step = (width - _LEFT - _RIGHT - 28) / max(1, len(versions) - 1)
    places = [_LEFT + 14 + step * at for at in range(len(versions))]
    if len(versions) == 1:
        places = [(_LEFT + width - _RIGHT) / 2]
    parts = [*svg.grid(rise, ticks, _LEFT, width - _RIGHT), *_version_labels(versions, places, step, bottom)]
    parts += _flagged(flags, width, places, [bottom if loss is None else rise(loss) for loss in losses])
    measured = [(at, rise(loss)) for at, loss in zip(places, losses, strict=True) if loss is not None]
    parts.append(svg.path(measured, "curve s0"))
    for version, at, loss in zip(versions, places, losses, strict=True):
        parts += _point(version, at, bottom if loss is None else rise(loss), loss, section["adapter"])
    return svg.picture(
        key,
        f"Validation loss of {section['task']} by version",
        _told(versions, losses),
        width,
        height,
        parts,
    )


def _told(versions: Sequence[Mapping[str, Any]], losses: Sequence[float | None]) -> str:
    known = [
        (loss, version["version"]) for version, loss in zip(versions, losses, strict=True) if loss is not None
    ]
    best = min(known)
    return (
        f"{plural(len(known), 'version')} with a validation loss, from {number(known[0][0])} at version {known[0][1]} "
        f"to {number(known[-1][0])} at version {known[-1][1]}; the lowest is {number(best[0])}, at version {best[1]}. "
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


def _flags(versions: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return aliases and the places of the versions that hold them."""
    found = [(alias, at) for at, version in enumerate(versions) for alias in version["aliases"]]
    return found[-_MOST_FLAGS:]


def _flagged(
    flags: Sequence[tuple[str, int]],
    width: int,
    places: Sequence[float],
    heights: Sequence[float],
) -> Iterator[Markup]:
    for row, (alias, at) in enumerate(flags):
        x, y = places[at], 14.0 + _ROW * row
        left = x < width / 2
        yield svg.line(x, y - 9, x, heights[at] - 8, "flag")
        yield svg.text(
            x + (7 if left else -7), y, f"#{short(alias, 24)}", "flagged", "start" if left else "end"
        )


def _point(
    version: Mapping[str, Any], x: float, y: float, loss: float | None, wanted: str | None
) -> Iterator[Markup]:
    told = f"{version['name']}: {'no validation loss' if loss is None else number(loss)}"
    if version["yanked"]:
        yield svg.mark(x, y, 0, "ring yanked", f"{told}, withdrawn")
        yield svg.path([(x - 6, y - 6), (x + 6, y + 6)], "cross")
        yield svg.path([(x - 6, y + 6), (x + 6, y - 6)], "cross")
    elif loss is None:
        yield svg.line(x, y - 5, x, y + 5, "missing")
    else:
        yield svg.mark(x, y, 0, "dot s0", told)
    if wanted == version["name"]:
        yield svg.element("circle", cx=x, cy=y, r=9, class_="wanted")
