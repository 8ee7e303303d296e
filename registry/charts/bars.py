"""The bars of a measurement, drawn with matplotlib, which is an optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .files import drawing, rendered

_PANELS = (
    ("tokens_per_second", "tokens a second", 1),
    ("first_token_seconds", "first token, ms", 1e3),
    ("load_seconds", "load, s", 1),
    ("peak_bytes", "peak memory, MB", 1e-6),
    ("bytes", "weights, MB", 1e-6),
)
_CHOSEN, _OTHER, _LOST = "#2a6f97", "#a9c6d8", "#d9d9d9"


def draw(view: Mapping[str, Any], kind: str) -> bytes:
    """Return a picture with a panel for each figure and a bar for each form; the recommended one stands out.

    Args:
        view: the report of a measurement, as `--json` prints it.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with drawing():
        from matplotlib.figure import Figure

        rows = [row for row in view["rows"] if row["error"] is None]
        figure = Figure(figsize=(2.6 + 1.7 * len(_PANELS), 0.9 + 0.32 * len(rows)), layout="constrained")
        figure.suptitle(f"{view['adapter']} on {view['base']}", fontsize=9, parse_math=False)
        for axes, (name, label, factor) in zip(
            figure.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True
        ):
            values = [row[name] * factor for row in rows]
            bars = axes.barh(range(len(rows)), values, color=[_colour(row, view["choice"]) for row in rows])
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=7)
            axes.set_yticks(range(len(rows)), [row["label"] for row in rows], parse_math=False)
            axes.set_xlabel(label)
            axes.margins(x=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
        return rendered(figure, kind)


def _colour(row: Mapping[str, Any], choice: str | None) -> str:
    if row["label"] == choice:
        return _CHOSEN
    lost = row["fidelity"] is not None and row["fidelity"]["verdict"] != "PASS"
    return _LOST if lost else _OTHER
