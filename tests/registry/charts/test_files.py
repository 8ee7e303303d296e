"""Files of pictures: an SVG needs nothing, a PNG is that SVG with letters on any machine."""

from __future__ import annotations

import io
import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from fusery.registry.charts import curves, svg
from fusery.registry.charts.svg import rendered
from fusery.registry.errors import MissingExtraError


def shape(data: bytes) -> tuple[tuple[int, int], int]:
    """Return the size of a PNG, and how many of its pixels are not white."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("L")
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
