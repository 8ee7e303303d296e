"""The page in a real browser: it is quiet, alone, complete and accessible, on a screen, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import report_registry
from page_measures import BROKEN, CUT

from fusery.registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.is_complete(), reason=browser.MISSING),
    pytest.mark.timing,
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOOKS: dict[str, tuple[dict[str, int], dict[str, str]]] = {
    "light": (WIDE, {"media": "screen", "color_scheme": "light"}),
    "dark": (WIDE, {"media": "screen", "color_scheme": "dark"}),
    "phone": (PHONE, {"media": "screen", "color_scheme": "light"}),
    "dark phone": (PHONE, {"media": "screen", "color_scheme": "dark"}),
    # A dark page is printed in light colours.
    "paper": ({"width": 700, "height": 1000}, {"media": "print", "color_scheme": "dark"}),
}
SUBJECTS = (None, "course_rec", "course_rec#prod")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browser.running() as running:
        yield running


@pytest.fixture(params=SUBJECTS, ids=str)
def place(request: pytest.FixtureRequest, pages: dict[str | None, Path]) -> Path:
    """The file of a page."""
    return pages[request.param]


@pytest.fixture
def page(chromium: Any, place: Path) -> Iterator[Any]:
    """A page that axe can be put into, which the page's own policy forbids."""
    context = chromium.new_context(bypass_csp=True, offline=True)
    opened = context.new_page()
    opened.goto(place.as_uri())
    yield opened
    context.close()


def look(page: Any, name: str) -> None:
    size, media = LOOKS[name]
    page.set_viewport_size(size)
    page.emulate_media(**media)


def test_it_is_quiet_and_alone(chromium: Any, place: Path) -> None:
    context = chromium.new_context(viewport=WIDE)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(place.as_uri())
    for name in LOOKS:
        look(page, name)
    page.wait_for_load_state("networkidle")
    assert said == []
    assert [url for url in asked if url != "data:,"] == [place.as_uri()]
    # The browser enforces the page's policy: no script can be added to it.
    with pytest.raises(Exception, match="Content Security Policy"):
        page.add_script_tag(content="1")
    context.close()


def test_pictures_fit_and_axe_finds_nothing(page: Any) -> None:
    page.add_script_tag(path=browser.AXE)
    for name in LOOKS:
        look(page, name)
        pairs = page.eval_on_selector_all(
            ".picture",
            "all => all.map(one => [...one.children].map(each => each.firstElementChild.clientHeight > 40))",
        )
        assert len(pairs) >= 5
        # Each picture is on the page twice, for desktops and paper and for phones; one of the two is visible.
        assert all(sorted(pair) == [False, True] for pair in pairs)
        assert all(pair[0] != name.endswith("phone") for pair in pairs)
        assert page.eval_on_selector_all("img", "all => all.every(one => one.complete && one.naturalWidth)")
        for folded in (True, False):
            _unfold(page, not folded)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= page.viewport_size["width"]
        if name == "light":  # folded in one look, unfolded in all others
            _unfold(page, False)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        violations = [
            (each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found["violations"]
        ]
        assert (violations, len(found["passes"]) > 20) == ([], True), name


def _unfold(page: Any, opened: bool = True) -> None:
    page.eval_on_selector_all("details", f"all => all.forEach(one => one.open = {str(opened).lower()})")


PAPER = {"width": 688, "height": 1000}
"""A4 without its margins."""

SIZES = (320, 390, 768, 1090, 1280)


def _require_whole(page: Any) -> None:
    _unfold(page)
    for width in SIZES:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(CUT)[:8] == [], width
        assert page.evaluate(BROKEN)[:8] == [], width
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    assert page.evaluate(CUT)[:8] == []


def test_nothing_is_cut_off_and_no_word_is_broken(page: Any) -> None:
    _require_whole(page)


def test_neither_with_long_names_of_everything(chromium: Any, copied: Registry, tmp_path: Path) -> None:
    report_registry.fill_with_long_names(copied, tmp_path)
    copied.provenance.report("course_rec", html=tmp_path / "long.html")
    opened = chromium.new_page(offline=True)
    opened.goto((tmp_path / "long.html").as_uri())
    assert "the-team-of-recommendations" in opened.text_content("body")
    _require_whole(opened)
    opened.close()


def test_a_page_of_paper_has_every_section(page: Any) -> None:
    script = "all => all.map(one => one.querySelector('table').checkVisibility())"
    for name, visible in (("light", False), ("paper", True)):
        look(page, name)
        assert set(page.eval_on_selector_all("details:not(.bulk)", script)) == {visible}
    headings = page.eval_on_selector_all("h2, h3", "all => all.map(one => one.textContent)")
    look(page, "paper")
    printed = page.pdf(prefer_css_page_size=True, outline=True, tagged=True)
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3
    titles = [title.decode() for title in re.findall(rb"/Title \(([^)]*)\)", printed)]
    # Chromium repeats the title of a heading that moved to the next page.
    missing = [each for each in headings if each not in titles and each * 2 not in titles]
    assert missing == []
