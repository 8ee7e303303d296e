"""Drawing: both kinds of file are what they say, the same map gives the same bytes, and any map can be drawn."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

from fusery.registry.charts.heat_map import HeatMap, Row
from fusery.registry.charts.heat_map_svg import draw

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
VIRIDIS = {0.1: 0x482475, 0.6: 0x22A884, 1.0: 0xFDE725}
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


def test_an_svg_has_a_cell_for_each_share() -> None:
    cells = [node for node in drawn(MAP).iter() if node.tag.endswith("}rect") and node.get("rx")]
    assert len(cells) == 2 * LAYERS + 1
    assert len([cell for cell in cells if cell.get("class") == "nothing"]) == 5


def test_layer_numbers_and_the_scale_stand_below_the_cells() -> None:
    nodes = [(node.tag.rpartition("}")[2], node.attrib, node.text or "") for node in drawn(MAP).iter()]
    cells = sorted({float(each["x"]) for tag, each, _ in nodes if tag == "rect" and "rx" in each})
    rows = sorted(
        {
            (float(each["y"]), float(each["height"]))
            for tag, each, _ in nodes
            if tag == "rect" and "rx" in each
        }
    )
    assert all(y + height <= after for (y, height), (after, _) in itertools.pairwise(rows))
    steps = [float(each["x"]) for tag, each, _ in nodes if tag == "rect" and each.get("height") == "10"]
    assert len(steps) > 10 and steps == sorted(steps) and abs(steps[0] - cells[0]) < 2
    placed = {text: float(each["x"]) for tag, each, text in nodes if tag == "text"}
    numbers = [placed[str(layer)] for layer in range(LAYERS)]
    assert all(
        cell < number < cell + (cells[1] - cells[0]) for cell, number in zip(cells, numbers, strict=True)
    )
    marks = [x for text, x in placed.items() if re.fullmatch(r"-?\d+ %", text)]
    assert len(marks) >= 2 and marks == sorted(marks)
    assert all(steps[0] <= x <= 2 * steps[-1] - steps[-2] + 1 for x in marks)


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
