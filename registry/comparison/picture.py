"""Drawing what differs between two adapters: layer by module, and how fast their singular values fall."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..charts import svg
from ..charts.heat_map import FILE_WIDTH, VIRIDIS, Shades, arranged, colours, drawn, room_for
from ..charts.svg import rendered
from .cores import joined
from .modules import ModuleChange, overall

_MOST_CHANGE = 2.0
"""Where the scale of relative changes ends at the latest: two unrelated updates of one norm have sqrt(2)."""

_ORANGE_TO_PURPLE = colours("7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b")
"""ColorBrewer's: light in the middle, and the two ends told apart by the colour-blind."""

_COSINES = Shades("cosine", _ORANGE_TO_PURPLE, -1.0, 1.0, (-1.0, -0.5, 0.0, 0.5, 1.0))
_PLOT_LEFT, _PLOT_WIDTH, _PLOT_HEIGHT = 76, 640, 240


def draw(a: str, b: str, changes: Sequence[ModuleChange], kind: str) -> bytes:
    """Return the picture as a PNG or SVG file; the same numbers give the same bytes."""
    modules = {change.module: change for change in changes}
    layers, *of_change = arranged(modules, (), lambda changes: _of(changes, "relative_change"))
    _, *of_cosine = arranged(modules, (), lambda changes: _of(changes, "cosine"))
    cells = [cell for row in (*of_change[0], *of_change[1]) for cell in row.cells if cell is not None]
    largest = min(_MOST_CHANGE, max(cells, default=0.0)) or 1.0
    above = f"; {largest:g} and more have one colour" if largest == _MOST_CHANGE else ""
    scale = Shades("change", VIRIDIS, 0.0, largest, tuple(largest * part / 4 for part in range(5)))
    left = room_for([*of_change[0], *of_change[1]])
    parts: list[Markup] = []
    top, width = 0, _PLOT_LEFT + _PLOT_WIDTH + 16
    for title, shades, (rows, outside) in (
        (
            f"relative change: norm of the difference / norm of the first (grey: not in the first{above})",
            scale,
            of_change,
        ),
        ("cosine of the updates (grey: not in both)", _COSINES, of_cosine),
    ):
        parts.append(svg.text(16, top + 18, title, "label strong"))
        drawing, right, top = drawn(layers, rows, outside, shades, left, FILE_WIDTH, top + 28)
        parts += drawing
        width = max(width, right)
    parts.append(svg.text(16, top + 18, "share of the norm, by singular value", "label strong"))
    parts += _spectra((a, b), changes, top + 36.0)
    whole = overall(changes)
    cosine, change = (
        "-" if value is None else f"{value:.3g}" for value in (whole.cosine, whole.relative_change)
    )
    return rendered(
        svg.document(
            f"{a} against {b}",
            "What differs between two adapters, by layer and module, and how fast their singular values fall.",
            width,
            top + _PLOT_HEIGHT + 140,
            parts,
            below=f"cosine {cosine}, relative change {change}",
        ),
        kind,
    )


def _of(changes: Sequence[ModuleChange], figure: str) -> float | None:
    return getattr(joined([change.updates for change in changes]), figure) if changes else None


def _spectra(names: tuple[str, str], changes: Sequence[ModuleChange], top: float) -> Iterator[Markup]:
    """Draw the singular values, each module's as shares of its norm: the median over the modules, and 10 to 90 %."""
    known = {
        at: np.log10(np.nanquantile(shares, (0.1, 0.5, 0.9), axis=0))
        for at, spectra in enumerate(
            (
                [change.updates.spectrum_a for change in changes],
                [change.updates.spectrum_b for change in changes],
            )
        )
        if (shares := _shares(spectra)).size
    }
    right, bottom = _PLOT_LEFT + _PLOT_WIDTH, top + _PLOT_HEIGHT
    lowest = min((float(np.nanmin(lines)) for lines in known.values()), default=-1.0)
    # Each step of the scale is a tenth of the one above it, and the highest is all of the norm.
    rise = svg.Scale(min(-1, math.floor(lowest)), 0, bottom, top)
    for power in range(int(rise.low), 1):
        yield svg.line(_PLOT_LEFT, rise(power), right, rise(power), "grid")
        yield svg.text(_PLOT_LEFT - 10, rise(power) + 4, f"{10.0**power:g}", anchor="end")
    longest = max((lines.shape[1] for lines in known.values()), default=1)
    run, marks = svg.axis([1.0, float(max(2, longest))], _PLOT_LEFT, right)
    for value in filter(float.is_integer, marks):
        yield svg.text(run(value), bottom + 22, f"{value:.0f}", anchor="middle")
    yield svg.text(
        (_PLOT_LEFT + right) / 2, bottom + 42, "singular value, the largest first", anchor="middle"
    )
    for at, lines in known.items():
        low, middle, high = ([(run(n), rise(float(y))) for n, y in enumerate(line, 1)] for line in lines)
        yield svg.path([*low, *reversed(high)], f"band s{at}")
        yield svg.path(middle, f"curve s{at}" + (" d1" if at else ""))
        if len(middle) == 1:  # a line that is none
            yield svg.mark(*middle[0], at, f"dot s{at}")
        y = bottom + 66 + 18 * at
        yield svg.path(
            [(_PLOT_LEFT, y - 4), (_PLOT_LEFT + 28, y - 4)], f"curve s{at}" + (" d1" if at else "")
        )
        yield svg.text(_PLOT_LEFT + 38, y, names[at])


def _shares(spectra: Sequence[Sequence[float]]) -> Any:
    """Return one row for each module that is not zero; what it does not have is NaN, what is next to nothing 1e-6."""
    known = [np.asarray(spectrum) for spectrum in spectra if spectrum and spectrum[0] > 0]
    longest = max((len(spectrum) for spectrum in known), default=0)
    shares = np.full((len(known), longest), np.nan)
    for row, spectrum in zip(shares, known, strict=True):
        row[: len(spectrum)] = np.maximum(spectrum / np.linalg.norm(spectrum), 1e-6)
    return shares
