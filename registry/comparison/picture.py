"""Drawing what differs between two adapters: layer by module, and how fast their singular values fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..charts.files import drawing, rendered
from ..charts.heat_map import Row, arranged
from .cores import joined
from .modules import ModuleChange, overall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOTHING = "#d9d9d9"
_CELL = 0.27
_MOST_CHANGE = 2.0
"""Where the scale of relative changes ends at the latest: two unrelated updates of one norm have sqrt(2)."""

_COLOURS = ("#0072b2", "#d55e00")


def draw(a: str, b: str, changes: Sequence[ModuleChange], kind: str) -> bytes:
    """Return the picture as a PNG or SVG file; the same numbers give the same bytes.

    Args:
        a: name of the first adapter.
        b: name of the second.
        changes: what differs, module by module.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        BadInputError: there are too many layers or kinds of modules for a picture.
    """
    modules = {change.module: change for change in changes}
    layers, change_rows, change_outside = arranged(modules, (), _relative_change)
    _, cosine_rows, cosine_outside = arranged(modules, (), _cosine)
    with drawing():
        from matplotlib.figure import Figure

        rows = len(change_rows) + len(change_outside)
        width = min(max(_CELL * max(len(layers), 1), 4.2), 60.0)
        height = max(_CELL * rows, 0.6)
        figure = Figure(figsize=(width + 2.6, 2 * height + 5.2), layout="constrained")
        figure.suptitle(_title(a, b, changes), fontsize=9, parse_math=False)
        ratios = [height + 0.5, height + 0.5, 2.6]
        axes = figure.subplots(3, 1, gridspec_kw={"height_ratios": ratios})
        largest = _largest(change_rows + change_outside)
        _map(figure, axes[0], layers, (*change_rows, *change_outside), ("viridis", 0.0, largest))
        axes[0].set_title(
            "relative change: norm of the difference / norm of the first (grey: not in the first)", fontsize=8
        )
        _map(figure, axes[1], layers, (*cosine_rows, *cosine_outside), ("PuOr", -1.0, 1.0))
        axes[1].set_title("cosine of the updates (grey: not in both)", fontsize=8)
        axes[1].set_xlabel("layer")
        _spectra(axes[2], (a, b), changes)
        return rendered(figure, kind)


def _relative_change(changes: Sequence[ModuleChange]) -> float | None:
    return joined([change.updates for change in changes]).relative_change if changes else None


def _cosine(changes: Sequence[ModuleChange]) -> float | None:
    return joined([change.updates for change in changes]).cosine if changes else None


def _largest(rows: Sequence[Row]) -> float:
    known = [cell for row in rows for cell in row.cells if cell is not None]
    return min(_MOST_CHANGE, max(known, default=0.0)) or 1.0


def _title(a: str, b: str, changes: Sequence[ModuleChange]) -> str:
    whole = overall(changes)
    cosine, change = (
        "-" if value is None else f"{value:.3g}" for value in (whole.cosine, whole.relative_change)
    )
    return f"{a}\nagainst {b}\ncosine {cosine}, relative change {change}"


def _map(
    figure: Figure,
    panel: Axes,
    layers: Sequence[int],
    rows: Sequence[Row],
    colours: tuple[str, float, float],
) -> None:
    """Draw rows of cells with the scale beside; what is outside of the layers has its one cell at the left."""
    from matplotlib import colormaps

    name, low, high = colours
    cells = np.full((len(rows), max(len(layers), 1)), np.nan)
    for place, row in enumerate(rows):
        known = [np.nan if cell is None else cell for cell in row.cells]
        cells[place, : len(known)] = known
    shown: Any = colormaps[name].with_extremes(bad=_NOTHING)
    mesh = panel.pcolormesh(
        np.ma.masked_invalid(cells), cmap=shown, vmin=low, vmax=high, edgecolors="white", linewidth=0.8
    )
    panel.invert_yaxis()
    panel.set_yticks(np.arange(len(rows)) + 0.5)
    panel.set_yticklabels([row.label for row in rows], parse_math=False)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(layers) / step <= 40)
    ticks = [(place + 0.5, layer) for place, layer in enumerate(layers) if layer % step == 0]
    panel.set_xticks([place for place, _ in ticks], [str(layer) for _, layer in ticks])
    above = bool((cells > high).any())
    figure.colorbar(mesh, ax=panel, fraction=0.05, pad=0.02, extend="max" if above else "neither")


def _spectra(panel: Axes, names: tuple[str, str], changes: Sequence[ModuleChange]) -> None:
    """Draw the singular values, each module's as shares of its norm: the median over the modules, and 10 to 90 %."""
    for name, colour, style, spectra in zip(
        names,
        _COLOURS,
        ("-", "--"),
        (
            [change.updates.spectrum_a for change in changes],
            [change.updates.spectrum_b for change in changes],
        ),
        strict=True,
    ):
        shares = _shares(spectra)
        if not shares.size:
            continue
        low, middle, high = np.nanquantile(shares, (0.1, 0.5, 0.9), axis=0)
        places = np.arange(1, shares.shape[1] + 1)
        panel.plot(places, middle, style, color=colour, label=name)
        panel.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.set_yscale("log")
    panel.set_xlabel("singular value, the largest first")
    panel.set_ylabel("share of the norm")
    if panel.lines:
        for text in panel.legend(frameon=False, fontsize=7).get_texts():
            text.set_parse_math(False)


def _shares(spectra: Sequence[Sequence[float]]) -> Any:
    """Return one row for each module that is not zero; what it does not have is NaN, what is next to nothing 1e-6."""
    known = [np.asarray(spectrum) for spectrum in spectra if spectrum and spectrum[0] > 0]
    longest = max((len(spectrum) for spectrum in known), default=0)
    shares = np.full((len(known), longest), np.nan)
    for row, spectrum in zip(shares, known, strict=True):
        row[: len(spectrum)] = np.maximum(spectrum / np.linalg.norm(spectrum), 1e-6)
    return shares
