"""Drawing training curves over one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .files import drawing, rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, told apart by the colour-blind; with more curves than that the dashes change."""

_DASHES = ("-", "--", ":", "-.")


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> bytes:
    """Return the picture as a PNG or SVG file: validation losses bold, training losses thin.

    Args:
        curves: the points of each adapter by its name, as `compare.compare_adapters` returns them.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 4.4), layout="constrained")
        panel = figure.subplots()
        for number, (name, points) in enumerate(curves.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
            _curve(panel, name, points, colour, dashes)
        panel.set_xlabel("iteration")
        panel.set_ylabel("loss (bold: validation, thin: training)")
        panel.grid(color="#e5e5e5", linewidth=0.6)
        for text in panel.legend(frameon=False, fontsize=7).get_texts():
            text.set_parse_math(False)
        return rendered(figure, kind)


def _curve(panel: Axes, name: str, points: Sequence[Mapping[str, Any]], colour: str, dashes: str) -> None:
    label = name if points else f"{name} (no curve)"
    for field, width, marker in (("train_loss", 0.7, ""), ("val_loss", 1.8, "o")):
        known = [(point["iteration"], point[field]) for point in points if point[field] is not None]
        panel.plot(
            [iteration for iteration, _ in known],
            [loss for _, loss in known],
            dashes,
            color=colour,
            linewidth=width,
            marker=marker,
            markersize=3,
            alpha=1.0 if field == "val_loss" else 0.6,
            label=label if field == "val_loss" else None,
        )
