"""The page as a document: structure, names of everything, nothing from outside, and nothing that gets out of a text."""

from __future__ import annotations

import re
from pathlib import Path

import html_tree
import report_registry
from html_tree import Element

from fusery.registry.charts.text import shown as as_shown

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
