"""The page as a document: structure, names of everything, nothing from outside, and nothing that gets out of a text."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import html_tree
import report_registry
from html_tree import Element

from fusery.registry.charts.text import shown as as_shown

STYLE = Path(__file__).resolve().parents[3] / "registry" / "charts" / "style.css"
SECTIONS = (
    "Summary",
    "Versions",
    "Learning curves",
    "Who held which alias when",
    "Rules and promotions",
    "Lineage",
    "Fidelity of fused models",
    "Signatures",
    "Where it went",
    "Findings at registration",
)


def test_a_document_has_a_language_a_title_and_landmarks(tree: Element) -> None:
    (html,) = [child for child in tree.children if isinstance(child, Element)]
    assert (html.name, html.attributes["lang"]) == ("html", "en")
    (title,) = html.all("head")[0].all("title")
    assert title.text.strip().endswith("– report")
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.all(landmark)) == 1, landmark
    names = {each.attributes.get("name"): each.attributes.get("content") for each in tree.all("meta")}
    assert names["viewport"] == "width=device-width, initial-scale=1"
    assert names["color-scheme"] == "light dark"

    levels = [int(each.name[1]) for each in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(each.text.strip() for each in tree.all("h1", "h2", "h3"))
    ids = [each.attributes["id"] for each in tree.walk() if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    wanted = {name for each in tree.walk() for name in each.attributes.get("aria-labelledby", "").split()}
    wanted |= {each.attributes["href"].removeprefix("#") for each in tree.all("a")}
    assert len(wanted) > 10 and wanted <= set(ids)


def test_tables_have_captions_and_heads(tree: Element) -> None:
    assert tree.all("table")
    for table in tree.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(cell.attributes.get("scope") in ("col", "row") for cell in table.all("th"))
        width = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            cells = row.all("th", "td")
            assert cells[0].name == "th"
            assert sum(int(cell.attributes.get("colspan", 1)) for cell in cells) == width


def test_pictures_have_names_and_descriptions(tree: Element) -> None:
    pictures = [each for each in tree.all("svg") if each.attributes.get("aria-hidden") != "true"]
    assert len(pictures) >= 4
    for picture in pictures:
        assert picture.attributes["role"] == "img"
        assert "aria-labelledby" in picture.attributes or picture.attributes["aria-label"]
        group = next(each for each in picture.above() if each.attributes.get("role") == "group")
        assert group.attributes["tabindex"] == "0"
        assert any(each.name == "figure" for each in picture.above())
    assert all(figure.all("figcaption")[0].text.strip() for figure in tree.all("figure"))


def test_nothing_runs_and_nothing_is_loaded(tree: Element) -> None:
    assert not tree.all(
        "script", "img", "iframe", "object", "embed", "form", "base", "video", "audio", "use", "image"
    )
    for element in tree.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.name, name)
            if name in ("href", "src", "action", "formaction", "xlink:href", "srcset", "data"):
                assert value.startswith("#") or (element.name, value) == ("link", "data:,")
            assert name != "style"
    styles = "".join(str(child) for style in tree.all("style") for child in style.children)
    assert not re.search(r"url\(|@import|expression|</", styles)
    (policy,) = [
        each.attributes["content"]
        for each in tree.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_every_section_is_there(pages: dict[str | None, Path]) -> None:
    for subject in ("course_rec", "course_rec#prod", "mail"):
        tree = html_tree.parse(pages[subject].read_text(encoding="utf-8"))
        assert tuple(each.text for each in tree.all("h2")) == (*SECTIONS, "Audit", "Who is trusted")
    tree = html_tree.parse(pages[None].read_text(encoding="utf-8"))
    assert " ".join(each.text for each in tree.all("h2")) == "Overview course_rec mail Audit Who is trusted"
    assert tuple(each.text for each in tree.all("h3")) == SECTIONS * 2


def test_hostile_texts_are_text(pages: dict[str | None, Path]) -> None:
    for subject in (None, "mail", "mail@1"):
        page = pages[subject].read_text(encoding="utf-8")
        text = html_tree.parse(page).text
        wanted = as_shown(report_registry.HOSTILE)
        # The reason of the move, of the withdrawal, and the note at the place.
        assert text.count(wanted) >= 3
        assert "{{ 7*7 }}" in text
        assert "49" not in re.findall(r"onload=alert\(3\)> .{0,40}", text)[0]
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x08]", page)
    tree = html_tree.parse(pages["mail@1"].read_text(encoding="utf-8"))
    facts = {each.all("dt")[0].text: each.all("dd")[0].text for each in tree.all("dl")[0].all("div")}
    assert facts["Note"] == wanted
    assert facts["Dataset"] == wanted
    assert facts["Tags"] == f"team={wanted}"


def test_colours_can_be_read_on_what_they_stand_on() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    for scheme in (light, dark):
        colour = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        assert len(colour) > 20
        for ground in ("page", "raised"):
            for name in ("text", "soft", "link", "good", "warn", "bad"):
                assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
        for name in ("h0", "h1", "h2", "h3"):
            assert contrast(colour["inside"], colour[name]) >= 4.5, name
        for name in ("s0", "s1", "s2", "s3", "s4", "s5"):
            assert contrast(colour[name], colour["page"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [part / 255 for part in bytes.fromhex(colour[1:])]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
