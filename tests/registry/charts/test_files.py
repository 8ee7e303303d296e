"""Files of pictures: an SVG needs nothing, a PNG is that SVG with letters on any machine; and any map can be drawn."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from fusery.registry.charts import curves, heat_map, svg
from fusery.registry.charts.heat_map import HeatMap, Row
from fusery.registry.charts.svg import rendered
from fusery.registry.errors import MissingExtraError


def opened(data: bytes, mode: str = "L") -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=["PNG"]).convert(mode)


def shape(data: bytes) -> tuple[tuple[int, int], int]:
    """Return the size of a PNG, and how many of its pixels are not white."""
    image = opened(data)
    return image.size, sum(image.histogram()[:200])


def picture(*words: str) -> str:
    return svg.document("", "", 200, 60, [svg.text(4, 20 * at, word) for at, word in enumerate(words, 1)])


def test_a_png_is_its_svg_with_the_package_s_own_letters() -> None:
    root = ElementTree.fromstring(picture("a"))
    size, _ = shape(rendered(picture("a"), "png"))
    assert size == tuple(int(float(root.attrib[side]) * 150 / 96 + 0.5) for side in ("width", "height"))
    assert shape(rendered(picture(), "png"))[1] == 0
    for word in ("course_rec", "– × … \N{MINUS SIGN}", "ΔΩ", "Привет"):
        assert shape(rendered(picture(word), "png"))[1] > 40, word
    assert rendered(picture("a"), "png") != rendered(picture("b"), "png")
    (style,) = [node.text or "" for node in root.iter() if node.tag.endswith("}style")]
    assert not re.search(r"var\(|--", style), "colours replace variables"
    assert re.search(r"\.label, \.flagged \{ fill: #565e68; \}", style)  # of the light scheme


@pytest.mark.parametrize("absent", ["resvg_py", "ttf_opensans"])
def test_a_png_needs_its_extra_and_an_svg_does_not(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert rendered(picture("a"), "svg").startswith(b"<?xml")
    with pytest.raises(MissingExtraError) as caught:
        rendered(picture("a"), "png")
    assert caught.value.hint == "pip install 'fusery[plot]'"


def points(*losses: float | None) -> list[dict[str, Any]]:
    return [{"iteration": 10 * at, "train_loss": 1.0, "val_loss": loss} for at, loss in enumerate(losses)]


def test_each_of_many_curves_looks_different_and_has_its_name() -> None:
    named = {f"t_v{number}_20260101": points(1.0, None, 0.5) for number in range(24)} | {"bare": []}
    root = ElementTree.fromstring(curves.draw(named, "svg"))
    shown = [node.text for node in root.iter() if node.tag.endswith("}text")]
    assert [name for name in named if name in shown] == list(named)[:-1]
    assert "bare (no curve)" in shown
    lines = [node.get("class") for node in root.iter() if (node.get("class") or "").startswith("curve ")]
    assert len(set(lines)) == 24
    dots = {(node.get("class"), node.get("d")) for node in root.iter() if "dot" in (node.get("class") or "")}
    assert len(dots) >= 24, "no two have dots of one colour and shape"
    assert shape(curves.draw(named, "png"))[1] > 1_000


LAYERS = 6
MAP = HeatMap(
    "course_rec_v1_20260115, dither",
    "PASS: 96.0 % retained, cosine 0.226, relative error 4.31",
    tuple(range(LAYERS)),
    (
        Row("q_proj", (None, None, 0.1, 0.6, 0.95, 1.02)),
        Row("$\\frac{evil}$", (None, None, None, -0.1, 0.5, 0.9)),
    ),
    (Row("lm_head", (0.7,)),),
)
VIRIDIS = {
    0: 0x440154,
    0.1: 0x482475,
    0.5: 0x21918C,
    0.6: 0x22A884,
    0.7: 0x44BF70,
    0.9: 0xBDDF26,
    1: 0xFDE725,
}
"""As matplotlib has it."""


def texts(picture: HeatMap) -> list[str]:
    root = ElementTree.fromstring(heat_map.draw(picture, "svg"))
    return [node.text or "" for node in root.iter() if node.tag.endswith("}text")]


def test_a_png_has_the_colours_of_its_cells() -> None:
    image = opened(heat_map.draw(MAP, "png"), "RGB")
    found = {colour for _, colour in image.getcolors(1 << 24) or []}
    for value, colour in VIRIDIS.items():
        parts = colour.to_bytes(3)
        assert any(max(abs(a - b) for a, b in zip(parts, pixel, strict=True)) <= 2 for pixel in found), value
    assert {(0xE7, 0xEA, 0xEE), (0xFF, 0xFF, 0xFF)} <= found


def test_a_cell_says_what_it_holds_without_its_colour() -> None:
    shown = texts(MAP)
    marked = [text for text in shown if re.fullmatch(r"-?\d+ [×–]", text)]
    assert marked == ["10 ×", "60 –", "-10 ×", "50 –", "70 –"]
    narrow = texts(replace(MAP, layers=tuple(range(100)), rows=(Row("q", (0.1, 0.5, 0.9, *[None] * 97)),)))
    assert (narrow.count("×"), narrow.count("–")) == (1, 1)
    much = texts(replace(MAP, rows=(Row("q", (1.19, 1.3, 1.9, None, None, None)),), outside=()))
    numbers = [text for text in much if re.fullmatch(r"\d+( [×–])?", text) and int(text.split()[0]) > 100]
    assert numbers == ["119", "130 –", "190 ×"]
    legend = "× below 30 or above 170 %: lost; – below 80 or above 120 %: degraded; grey"
    assert any(text.startswith(legend) for text in shown)


def test_titles_and_labels_are_shown_as_they_are() -> None:
    shown = texts(replace(MAP, title="<a> & \x00 \u202e"))
    assert shown[0] == "<a> & \\x00 \\u202e"
    assert MAP.subtitle in shown
    assert "$\\frac{evil}$" in shown


def test_any_map_can_be_drawn_and_nothing_stands_outside() -> None:
    long = " + ".join(["0.5 a_long_name_v1_20260101"] * 12)
    for changes in (
        {"rows": (), "layers": ()},
        {"layers": tuple(range(512)), "rows": (Row("q", (0.5,) * 512),), "outside": ()},
        {"layers": (0,), "rows": tuple(Row(f"kind{n}", (0.5,)) for n in range(64)), "outside": ()},
        {"title": long, "rows": (Row("a" * 48, (0.5,) * LAYERS),)},
    ):
        picture = replace(MAP, **changes)  # type: ignore[arg-type]
        width, height = opened(heat_map.draw(picture, "png")).size
        assert 300 < width < 10_000
        assert 200 < height < 4_000
        root = ElementTree.fromstring(heat_map.draw(picture, "svg"))
        boxes = [node for node in root.iter() if node.tag.endswith("}rect") and node.get("rx")]
        right = max(float(box.attrib["x"]) + float(box.attrib["width"]) for box in boxes)
        assert right <= int(root.attrib["width"])
        cells = [cell for row in (*picture.rows, *picture.outside) for cell in row.cells]
        assert sum(box.get("fill") is not None for box in boxes) == len(cells) - cells.count(None)
