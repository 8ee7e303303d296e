"""A saved page: the pages of a server in one file, which runs nothing and asks for nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import browser
import html_tree
import pytest
import report_registry
from browser import CUT
from html_tree import Element

from fusery.registry import Registry
from fusery.registry.charts.text import shown as as_shown
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.web.auth import LocalAuth
from fusery.web.sheets import saved

SUBJECTS = (None, "course_rec", "mail", "course_rec#prod", "mail@1")


def tree_of(page: bytes) -> Element:
    return html_tree.parse(page.decode())


def titles(tree: Element) -> list[str]:
    (nav,) = tree.all("nav")
    return [each.text for each in nav.all("a")]


@pytest.fixture(params=SUBJECTS, ids=str)
def tree(request: pytest.FixtureRequest, shown: Registry) -> Element:
    return tree_of(saved(shown, request.param, shown.upkeep.audit_chain()))


def test_nothing_runs_and_nothing_is_loaded(tree: Element) -> None:
    assert not tree.all("script", "img", "iframe", "object", "embed", "form", "base", "use", "input")
    ids = {element.attributes["id"] for element in tree.walk() if "id" in element.attributes}
    assert len(ids) == len([each for each in tree.walk() if "id" in each.attributes])
    for element in tree.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.name, name)
            if name in ("href", "src", "action", "formaction", "xlink:href", "srcset", "data"):
                known = value.startswith("#") and value[1:] in ids
                assert known or (element.name, value) == ("link", "data:,"), value
            assert name != "aria-labelledby" or set(value.split()) <= ids
            assert name != "style"
    styles = "".join(str(child) for style in tree.all("style") for child in style.children)
    assert not re.search(r"url\(|@import|expression|</", styles)
    (policy,) = [
        each.attributes["content"]
        for each in tree.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert len(tree.all("h1")) == 1


def test_what_is_in_it(shown: Registry) -> None:
    tree = tree_of(saved(shown, "course_rec"))
    (third,) = [each.name for each in shown.adapters.list(task="course_rec") if each.version == 5]
    found = titles(tree)
    assert found[:3] == ["course_rec", "course_rec#prod", "course_rec#staging"]
    assert {third, f"Lineage of {third}"} <= set(found)
    for words in ("trained on the test set", "with a shorter prompt", "anna", "prod-eu/ranker"):
        assert words in tree.text
    assert len(tree.all("svg")) > 6
    tree = tree_of(saved(shown, None, shown.upkeep.audit_chain()))
    assert [name for name in titles(tree) if "#" not in name] == ["Tasks", "course_rec", "mail", "Audit"]
    assert "The audit found no problem." in tree.text
    adapter = shown.adapters.show("course_rec#prod")
    found = titles(tree_of(saved(shown, "course_rec#prod")))
    assert (found[0], found[-1]) == (adapter.name, "course_rec#prod")
    assert saved(shown, adapter.fused[0]["key"]).count(adapter.name.encode()) > 3 if adapter.fused else True


def test_hostile_texts_are_text(shown: Registry) -> None:
    wanted = as_shown(report_registry.HOSTILE)
    for subject in (None, "mail", "mail@1"):
        page = saved(shown, subject).decode()
        text = html_tree.parse(page).text
        assert wanted[:60] in text
        assert "{{ 7*7 }}" in text
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x08]", page)


def test_of_a_server_it_is_the_same(shown: Registry, address: str, door: LocalAuth) -> None:
    """It is made here, from the server's records: no HTML comes from there."""
    with Registry.open(address, token=door.key) as remote:
        for subject in ("course_rec", "mail@1"):
            here, there = (
                re.sub(r"<(time|svg).*?</\1>", "", saved(registry, subject).decode(), flags=re.DOTALL)
                for registry in (shown, remote)
            )
            assert here == there


def test_refusals(shown: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        saved(shown, "nothing")
    with pytest.raises(BadInputError):
        saved(shown, shown.bases.list()[0].name)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(not browser.is_complete(), reason=browser.MISSING)
def test_it_is_quiet_whole_and_accessible(own: Registry, tmp_path: Path) -> None:
    report_registry.fill_with_long_names(own, tmp_path)
    place, asked = tmp_path / "page.html", list[str]()
    place.write_bytes(saved(own, "course_rec"))
    with browser.running() as chromium:
        context: Any = chromium.new_context(bypass_csp=True, offline=True)
        page = context.new_page()
        page.on("console", lambda message: asked.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(place.as_uri())
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        for width in (320, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(CUT)[:8] == [], width
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.emulate_media(media="print", color_scheme="dark")
        page.set_viewport_size({"width": 688, "height": 1000})
        assert page.evaluate(CUT)[:8] == []
        assert [each for each in asked if each != "data:,"] == [place.as_uri()]
        page.emulate_media(media="screen", color_scheme="dark")
        page.add_script_tag(path=browser.AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
        context.close()
