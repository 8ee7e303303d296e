"""Drawing a map of fidelity with matplotlib, which is an optional extra: the same map gives the same bytes.

No state of matplotlib is used or changed: a figure of its own on its own canvas, and the package's own defaults in
place of the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine.fidelity import DEGRADED_FROM, PASS_FROM
from .files import drawing, rendered
from .heat_map import HeatMap, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = "viridis"
"""Told apart by the colour-blind, by brightness on paper, and from grey; the scale is always 0 to 1."""

_NOTHING = "#d9d9d9"
_CELL = 0.27


def draw(picture: HeatMap, kind: str) -> bytes:
    """Return the map as a PNG or SVG file.

    Args:
        picture: what to draw.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with drawing():
        from matplotlib.figure import Figure

        columns, rows = max(len(picture.layers), 1), len(picture.rows) + len(picture.outside)
        width, height = min(max(_CELL * columns, 4.2), 60.0), max(_CELL * rows, 0.6)
        figure = Figure(figsize=(width + 2.6, height + 1.9), layout="constrained")
        figure.suptitle(_wrapped(picture.title, width), fontsize=9, parse_math=False)
        _fill(figure, picture)
        return rendered(figure, kind)


def _wrapped(title: str, width: float) -> str:
    import textwrap

    return textwrap.fill(title, max(40, int(width * 13)), break_long_words=False, break_on_hyphens=False)


def _fill(figure: Figure, picture: HeatMap) -> None:
    """Draw the blocks, below them what is outside of them, and beside both the scale."""
    panels = [
        rows for rows in (picture.rows, picture.outside) if rows
    ]  # at least one: an adapter that adapts nothing is not admitted
    axes = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [len(rows) for rows in panels]}
    )[:, 0]
    mesh: Any = None
    for panel, rows in zip(axes, panels, strict=True):
        mesh = _panel(panel, rows)
        if rows is picture.rows:
            _number_layers(panel, picture.layers)
        else:
            panel.set_xticks([])
    axes[0].set_title(picture.subtitle, fontsize=8, parse_math=False)
    bar = figure.colorbar(
        mesh, ax=list(axes), fraction=0.05, pad=0.02, ticks=[0, DEGRADED_FROM, PASS_FROM, 1]
    )
    bar.set_label("share retained")
    for threshold in (DEGRADED_FROM, PASS_FROM):
        bar.ax.axhline(threshold, color="white", linewidth=1.5)
    _explain(figure)


def _panel(panel: Axes, rows: tuple[Row, ...]) -> Any:
    """Draw rows of cells, with a mark in each that is below a threshold."""
    import numpy as np
    from matplotlib import colormaps

    shares = np.array(
        [[np.nan if cell is None else cell for cell in row.cells] for row in rows], dtype=np.float64
    )
    colours = colormaps[_COLOURS].with_extremes(bad=_NOTHING)
    mesh = panel.pcolormesh(
        np.ma.masked_invalid(shares), cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=0.8
    )
    panel.invert_yaxis()
    panel.set_yticks(np.arange(len(rows)) + 0.5)
    panel.set_yticklabels([row.label for row in rows], parse_math=False)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    lost, degraded = shares < DEGRADED_FROM, (shares >= DEGRADED_FROM) & (shares < PASS_FROM)
    for cells, marker, colour in ((lost, "x", "white"), (degraded, "_", "black")):
        down, across = np.nonzero(cells)
        panel.scatter(across + 0.5, down + 0.5, s=22, marker=marker, c=colour, linewidths=1.1)
    return mesh


def _number_layers(panel: Axes, layers: tuple[int, ...]) -> None:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(layers) / step <= 40)
    shown = [(place + 0.5, layer) for place, layer in enumerate(layers) if layer % step == 0]
    panel.set_xticks([place for place, _ in shown], [str(layer) for _, layer in shown])
    panel.set_xlabel("layer")


def _explain(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(marker: str, text: str) -> Line2D:
        return Line2D([], [], color="black", marker=marker, linestyle="none", markersize=5, label=text)

    marks = [
        mark("x", f"below {DEGRADED_FROM:g}: lost"),
        mark("_", f"below {PASS_FROM:g}: degraded"),
        Patch(facecolor=_NOTHING, label="not adapted"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
