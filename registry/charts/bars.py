"""The bars of a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from . import svg
from .files import rendered
from .text import short

_PANELS = (
    ("tokens_per_second", "tokens a second", 1),
    ("first_token_seconds", "first token, ms", 1e3),
    ("load_seconds", "load, s", 1),
    ("peak_bytes", "peak memory, MB", 1e-6),
    ("bytes", "weights, MB", 1e-6),
)
_CHOSEN, _OTHER, _LOST = "#2a6f97", "#a9c6d8", "#d9d9d9"
_LEFT, _APART, _WIDE = 190, 160, 100
_ROW = 26


def draw(view: Mapping[str, Any], kind: str) -> bytes:
    """Return a picture with a panel for each figure and a bar for each form; the recommended one stands out.

    Args:
        view: the report of a measurement, as `--json` prints it.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: a PNG is wanted, and what draws it is not installed.
    """
    rows = [row for row in view["rows"] if row["error"] is None]
    bottom = 8 + _ROW * len(rows)
    parts = [
        svg.text(_LEFT - 10, 23 + _ROW * at, short(row["label"], 26), anchor="end")
        for at, row in enumerate(rows)
    ]
    for across, (name, label, factor) in enumerate(_PANELS):
        left = _LEFT + _APART * across
        longest = max((row[name] for row in rows), default=0) or 1
        parts += [svg.line(left, 4, left, bottom, "axis"), svg.text(left, bottom + 18, label)]
        for at, row in enumerate(rows):
            value = row[name] * factor
            shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
            parts += _bar(left, 8 + _ROW * at, row[name] / longest, shown, row, view)
    return rendered(
        svg.document(
            f"{view['adapter']} on {view['base']}",
            f"What each form of the adapter costs; recommended: {view['choice'] or 'none'}.",
            _LEFT + _APART * len(_PANELS),
            bottom + 34,
            parts,
        ),
        kind,
    )


def _bar(
    left: float, y: float, part: float, shown: str, row: Mapping[str, Any], view: Mapping[str, Any]
) -> Iterator[Markup]:
    lost = row["fidelity"] is not None and row["fidelity"]["verdict"] != "PASS"
    colour = _CHOSEN if row["label"] == view["choice"] else _LOST if lost else _OTHER
    yield svg.element("rect", x=left, y=y, width=_WIDE * part, height=_ROW - 6, fill=colour)
    yield svg.text(left + _WIDE * part + 5, y + 15, shown)
