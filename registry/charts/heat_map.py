"""Maps of layers and modules: of fidelity on a page and in a file, and whatever else has a number for each module."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from ..engine.verdict import LOST_BELOW, NEAR_FROM, closeness
from ..errors import BadInputError
from . import svg
from .text import finite, share, short

MOST_LAYERS = 512
MOST_ROWS = 64  # the most rows of a picture; only a broken or hostile model has more

_BLOCK = re.compile(r"(?P<stem>(?:[^.0-9][^.]*\.)*)(?P<block>[0-9]{1,5})\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")
_LABEL = 48
_ORDER = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"),
    *("gate_proj", "up_proj", "gate_up_proj", "down_proj"),
)
"""As they are used in a block; kinds with other names come after these, by name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of module, and its value in each layer; None without one."""

    label: str
    cells: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """What a picture of fidelity shows: rows within the blocks, and rows of one cell for modules outside of them."""

    title: str
    subtitle: str
    layers: tuple[int, ...]
    rows: tuple[Row, ...]
    outside: tuple[Row, ...]


def heat_map(view: Mapping[str, Any], base_modules: Iterable[str]) -> HeatMap:
    """Return the map of a fused artifact."""
    fidelity = view["fidelity"]
    modules = {module["module"]: module for module in fidelity["modules"]}
    extras = [f" + {part['weight']:g} {part['adapter']}" for part in view["with"]]
    scale = "" if view["scale"] is None else f" at scale {view['scale']:g}"
    retained, cosine, error = (fidelity[key] or 0.0 for key in ("retained", "cosine", "relative_error"))
    return HeatMap(
        f"{view['adapter']}{scale}{''.join(extras)}, {view['format']}",
        f"{fidelity['verdict']}: {100 * retained:.1f} % retained, "
        f"cosine {cosine:.3f}, relative error {error:.3g}",
        *_arranged(modules, base_modules),
    )


def _arranged(
    modules: Mapping[str, Mapping[str, Any]], base_modules: Iterable[str]
) -> tuple[tuple[int, ...], tuple[Row, ...], tuple[Row, ...]]:
    inside: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    outside = []
    for path, module in modules.items():
        match = _BLOCK.fullmatch(path)
        if match is None:
            outside.append(Row(short(path, _LABEL), (_retained([module]),)))
        else:
            kind = (match["stem"], _NUMBER.sub("*", match["kind"]))
            inside[kind][int(match["block"])].append(module)
    stems = {stem for stem, _ in inside}
    numbers = {number for layers in inside.values() for number in layers}
    for match in filter(None, map(_BLOCK.fullmatch, base_modules)):
        if match["stem"] in stems:
            numbers.add(int(match["block"]))
    layers = tuple(sorted(numbers))
    if len(layers) > MOST_LAYERS or len(inside) + len(outside) > MOST_ROWS:
        raise BadInputError("too many layers or kinds of modules for a picture", hint="--json has them")

    def place(kind: tuple[str, str]) -> tuple[Any, ...]:
        last = kind[1].rpartition(".")[2]
        return (_ORDER.index(last) if last in _ORDER else len(_ORDER), *kind)

    kinds = sorted(inside, key=place)
    # The shortest name of each kind that no other has: its last part, its path in the block, or all of it.
    spellings = [
        [kind.rpartition(".")[2] for _, kind in kinds],
        [kind for _, kind in kinds],
        [f"{stem}*.{kind}" for stem, kind in kinds],
    ]
    chosen = next((names for names in spellings if len(set(names)) == len(kinds)), spellings[-1])
    rows = []
    for kind, name in zip(kinds, chosen, strict=True):
        shares = tuple(_retained(inside[kind].get(layer, ())) for layer in layers)
        rows.append(Row(short(name, _LABEL), shares))
    return layers, tuple(rows), tuple(outside)


def _retained(modules: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share retained over modules taken as one: shares weigh as the squared norms of the updates."""
    shares = [module["retained"] for module in modules if module["retained"] is not None]
    weights = [module["norm"] ** 2 for module in modules if module["retained"] is not None]
    if not shares:
        return None
    if not sum(weights):
        weights = [1.0] * len(shares)
    return float(sum(w * share for w, share in zip(weights, shares, strict=True)) / sum(weights))


VIRIDIS = bytes.fromhex(
    "440154 471365 482475 463480 414487 3b528b 355f8d 2f6c8e 2a788e 25848e 21918c "
    "1e9c89 22a884 2fb47c 44bf70 5ec962 7ad151 9bd93c bddf26 dfe318 fde725"
)
"""matplotlib's: told apart by the colour-blind, and by their brightness on paper."""

WIDTH, FILE_WIDTH = 860, 2400  # the most pixels of a map on a page, and in a file
_WIDE, _NARROW, _HIGH = 40, 20, 26  # of a cell with a number in it, and of one with a mark at most
_LEAST = 420
_STEPS = 40
_MARKS = (0.0, LOST_BELOW, NEAR_FROM, 1.0)  # shares that the scale of colours names
_LIGHT_FROM = 0.4354  # the share from which black letters have more contrast: relative luminance above 0.18


def colour(value: float) -> bytes:
    """Return the red, green and blue of a share: the first colour for 0 and less, the last one for 1 and more."""
    at = min(max(value, 0.0), 1.0) * (len(VIRIDIS) // 3 - 1)
    low = min(int(at), len(VIRIDIS) // 3 - 2)
    stops = zip(VIRIDIS[3 * low : 3 * low + 3], VIRIDIS[3 * low + 3 : 3 * low + 6], strict=True)
    return bytes(round(a + (b - a) * (at - low)) for a, b in stops)


def _written(value: float, wide: bool) -> str:
    close = closeness(value)
    mark = "×" if close < LOST_BELOW else "–" if close < NEAR_FROM else ""
    return f"{100 * value:.0f} {mark}".rstrip() if wide else mark


def draw(picture: HeatMap, kind: str) -> bytes:
    """Return a map of fidelity as a PNG or SVG file, with all layers."""
    rows = (*picture.rows, *picture.outside)
    left = max(124, 24 + 7 * max((len(row.label) for row in rows), default=0))
    parts, right, bottom = _drawn(picture, left, FILE_WIDTH, 4)
    legend = (
        f"× below {100 * LOST_BELOW:.0f} or above {100 * (2 - LOST_BELOW):.0f} %: lost; "
        f"– below {100 * NEAR_FROM:.0f} or above {100 * (2 - NEAR_FROM):.0f} %: degraded; grey: not adapted"
    )
    return svg.rendered(
        svg.document(
            picture.title,
            "The share of the adapter's update that is in the written weights, by layer and module.",
            max(right, left + _LEAST),
            bottom + 36,
            [*parts, svg.text(left, bottom + 18, legend)],
            below=picture.subtitle,
        ),
        kind,
    )


def _drawn(picture: HeatMap, left: int, width: int, top: float) -> tuple[list[Markup], int, int]:
    """Draw the layers in bands of the width, the other rows, and the scale of colours; return also the right and the bottom."""
    layers, rows, room = picture.layers, picture.rows, width - left - 16
    wide = _WIDE if len(layers) * _WIDE <= room else _NARROW
    most = max(1, room // wide)
    bands = max(1, math.ceil(len(layers) / most))
    band_size = max(1, math.ceil(len(layers) / bands))
    parts: list[Markup] = []
    for start in range(0, len(layers), band_size):
        part = slice(start, start + band_size)
        parts += _cells([Row(row.label, row.cells[part]) for row in rows], left, wide, top)
        top += _HIGH * len(rows)
        parts += _layer_numbers(layers[part], left, wide, top)
        top += 40
    parts += _cells(picture.outside, left, _WIDE, top)
    top += _HIGH * len(picture.outside) + 14
    parts += _legend(left, top, min(6.0, (width - left - 24) / _STEPS))
    return parts, left + wide * band_size + 16, int(top + 44)


def heat_map_picture(key: str, picture: HeatMap) -> Markup:
    """Return the map of one fused model for a page, without layers in which no module was adapted."""
    kept = [at for at in range(len(picture.layers)) if any(row.cells[at] is not None for row in picture.rows)]
    rows = tuple(Row(row.label, tuple(row.cells[at] for at in kept)) for row in picture.rows if kept)
    shown = replace(picture, layers=tuple(picture.layers[at] for at in kept), rows=rows)
    parts, right, bottom = _drawn(shown, 124, WIDTH, 10.0)
    return svg.picture(
        key,
        f"Fidelity of {picture.title}",
        f"{picture.subtitle}. The table below has the numbers.",
        max(_LEAST, right),
        bottom,
        parts,
        kind="fixed",
    )


def _cells(rows: Sequence[Row], left: int, wide: int, top: float) -> Iterator[Markup]:
    for down, row in enumerate(rows):
        y = top + _HIGH * down
        yield svg.text(left - 10, y + 17, short(row.label, left // 7 - 1), anchor="end")
        for across, cell in enumerate(row.cells):
            yield from _cell(finite(cell), left + wide * across, y, wide)


def _cell(value: float | None, x: float, y: float, wide: int) -> Iterator[Markup]:
    box = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": _HIGH - 2, "rx": 2}
    if value is None:
        yield svg.element("rect", **box, class_="nothing")
        return
    tooltip = svg.element("title", share(value))
    yield svg.element("rect", tooltip, **box, fill=f"#{colour(value).hex()}")
    kind = "on-light" if value > _LIGHT_FROM else "on-dark"
    if written := _written(value, wide == _WIDE):
        yield svg.text(x + wide / 2, y + 17.5, written, kind, "middle")


def _layer_numbers(layers: Sequence[int], left: int, wide: int, bottom: float) -> Iterator[Markup]:
    every = 1 if wide == _WIDE else 2
    for at, layer in enumerate(layers):
        if at % every == 0:
            yield svg.text(left + wide * (at + 0.5), bottom + 16, str(layer), anchor="middle")
    yield svg.text(left - 10, bottom + 16, "layer", anchor="end")


def _legend(left: int, top: float, wide: float) -> Iterator[Markup]:
    run = svg.scale(0.0, 1.0, left, left + _STEPS * wide)
    for at in range(_STEPS):
        fill = f"#{colour((at + 0.5) / _STEPS).hex()}"
        yield svg.element("rect", x=left + wide * at, y=top, width=wide + 0.5, height=10, fill=fill)
    for value in _MARKS:
        yield svg.line(run(value), top, run(value), top + 14, "axis")
        yield svg.text(run(value), top + 28, f"{100 * value:.0f} %", anchor="middle")
    yield svg.text(left - 10, top + 9, "retained", anchor="end")
