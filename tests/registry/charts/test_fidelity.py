"""Drawing: both kinds of file are what they say, the same map gives the same bytes, nothing global is touched."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fusery.registry.charts.fidelity import draw
from fusery.registry.charts.heat_map import HeatMap, Row
from fusery.registry.errors import MissingExtraError

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


def pixels(data: bytes) -> set[tuple[int, ...]]:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    return {colour for _, colour in image.getcolors(1 << 24) or []}  # type: ignore[misc]


def test_a_png_has_the_colours_of_its_cells() -> None:
    from matplotlib import colormaps

    data = draw(MAP, "png")
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    found = pixels(data)
    for value in (0.0, 0.1, 0.5, 0.6, 0.7, 0.9, 0.95, 1.0):
        colour = tuple(round(255 * part) for part in colormaps["viridis"](value)[:3])
        assert any(max(abs(a - b) for a, b in zip(colour, pixel, strict=True)) <= 2 for pixel in found), value
    assert (0xD9, 0xD9, 0xD9) in found


def test_an_svg_has_a_cell_for_each_share() -> None:
    root = ElementTree.fromstring(draw(MAP, "svg"))
    meshes = [node for node in root.iter() if node.get("id", "").startswith("QuadMesh")]
    cells = [len([node for node in mesh.iter() if node.tag.endswith("path")]) for mesh in meshes[:2]]
    assert cells == [2 * LAYERS, 1]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_map_gives_the_same_bytes_in_another_process(kind: str) -> None:
    code = (
        "import sys; from fusery.registry.charts.heat_map import HeatMap, Row;"
        f"from fusery.registry.charts.fidelity import draw; sys.stdout.buffer.write(draw({MAP!r}, {kind!r}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout == draw(MAP, kind)
    assert draw(replace(MAP, title="another"), kind) != done.stdout


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_no_date_and_no_version_is_in_it(kind: str) -> None:
    data = draw(MAP, kind)
    assert not re.search(rb"<dc:date|<dc:creator|Software|Creation", data)


def test_the_user_s_own_style_changes_nothing_and_is_left_as_it_is() -> None:
    import matplotlib as mpl

    plain = draw(MAP, "svg")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30.0, "svg.hashsalt": None}):
        assert draw(MAP, "svg") == plain
        assert mpl.rcParams["font.size"] == 30.0


def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys; from fusery.registry.charts.heat_map import HeatMap, Row;"
        f"from fusery.registry.charts.fidelity import draw; draw({MAP!r}, 'png');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "picture",
    [
        replace(MAP, rows=(), layers=()),
        replace(MAP, outside=()),
        replace(MAP, layers=tuple(range(512)), rows=(Row("q", (0.5,) * 512),), outside=()),
        replace(MAP, layers=(0,), rows=tuple(Row(f"kind{n}", (0.5,)) for n in range(64)), outside=()),
        replace(MAP, title=" + ".join(["0.5 a_long_name_v1_20260101"] * 12)),
    ],
    ids=["outside only", "inside only", "wide", "high", "long title"],
)
def test_any_map_can_be_drawn(picture: HeatMap) -> None:
    from PIL import Image

    width, height = Image.open(io.BytesIO(draw(picture, "png"))).size
    assert 300 < width < 10_000
    assert 200 < height < 4_000


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        draw(MAP, "png")
    assert caught.value.hint == "pip install 'fusery[plot]'"
