"""Drawing: both kinds of file are what they say, and any map can be drawn."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fusery.registry.charts.heat_map import HeatMap, Row, draw

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
    0.0: 0x440154,
    0.1: 0x482475,
    0.5: 0x21918C,
    0.6: 0x22A884,
    0.7: 0x44BF70,
    0.9: 0xBDDF26,
    1.0: 0xFDE725,
}
"""As matplotlib has it."""


def pixels(data: bytes) -> set[tuple[int, ...]]:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    return {colour for _, colour in image.getcolors(1 << 24) or []}  # type: ignore[misc]


def drawn(picture: HeatMap) -> ElementTree.Element:
    return ElementTree.fromstring(draw(picture, "svg"))


def texts(picture: HeatMap) -> list[str]:
    return [node.text or "" for node in drawn(picture).iter() if node.tag.endswith("}text")]


def test_a_png_has_the_colours_of_its_cells() -> None:
    data = draw(MAP, "png")
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    found = pixels(data)
    for value, colour in VIRIDIS.items():
        parts = colour.to_bytes(3)
        assert any(max(abs(a - b) for a, b in zip(parts, pixel, strict=True)) <= 2 for pixel in found), value
    assert {(0xE7, 0xEA, 0xEE), (0xFF, 0xFF, 0xFF)} <= found


def test_a_cell_says_what_it_holds_without_its_colour() -> None:
    shown = texts(MAP)
    assert [text for text in shown if re.fullmatch(r"-?\d+ [×–]", text)] == [
        "10 ×",
        "60 –",
        "-10 ×",
        "50 –",
        "70 –",
    ]
    narrow = texts(replace(MAP, layers=tuple(range(100)), rows=(Row("q", (0.1, 0.5, 0.9, *[None] * 97)),)))
    assert (narrow.count("×"), narrow.count("–")) == (1, 1)
    much = texts(replace(MAP, rows=(Row("q", (1.19, 1.3, 1.9, None, None, None)),), outside=()))
    assert [text for text in much if re.fullmatch(r"\d+( [×–])?", text) and int(text.split()[0]) > 100] == [
        "119",
        "130 –",
        "190 ×",
    ]
    legend = "× below 30 or above 170 %: lost; – below 80 or above 120 %: degraded; grey"
    assert any(text.startswith(legend) for text in shown)


def test_titles_and_labels_are_shown_as_they_are() -> None:
    shown = texts(replace(MAP, title="<a> & \x00 \u202e"))
    assert shown[0] == "<a> & \\x00 \\u202e"
    assert MAP.subtitle in shown
    assert "$\\frac{evil}$" in shown


@pytest.mark.parametrize(
    "picture",
    [
        replace(MAP, rows=(), layers=()),
        replace(MAP, layers=tuple(range(512)), rows=(Row("q", (0.5,) * 512),), outside=()),
        replace(MAP, layers=(0,), rows=tuple(Row(f"kind{n}", (0.5,)) for n in range(64)), outside=()),
        replace(
            MAP,
            title=" + ".join(["0.5 a_long_name_v1_20260101"] * 12),
            rows=(Row("a" * 48, (0.5,) * LAYERS),),
        ),
    ],
    ids=["outside only", "wide", "high", "long title and label"],
)
def test_any_map_can_be_drawn(picture: HeatMap) -> None:
    from PIL import Image

    width, height = Image.open(io.BytesIO(draw(picture, "png"))).size
    assert 300 < width < 10_000
    assert 200 < height < 4_000
    # Nothing stands outside of the picture.
    root = drawn(picture)
    boxes = [node for node in root.iter() if node.tag.endswith("}rect") and node.get("rx")]
    assert all(
        float(box.attrib["x"]) + float(box.attrib["width"]) <= int(root.attrib["width"]) for box in boxes
    )
    assert sum(box.get("fill") is not None for box in boxes) == sum(
        cell is not None for row in (*picture.rows, *picture.outside) for cell in row.cells
    )
