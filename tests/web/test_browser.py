"""The pages in a real browser: quiet, alone, whole and accessible, on a screen and a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser
import pytest
from page_addresses import places
from page_measures import BROKEN, CUT

from fusery.registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.is_complete(), reason=browser.MISSING),
]
LOOKS: dict[str, tuple[dict[str, int], str]] = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark": ({"width": 1280, "height": 900}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
    "dark phone": ({"width": 390, "height": 844}, "dark"),
}
SIZES = (320, 390, 768, 1090, 1280)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browser.running() as running:
        yield running


def test_every_page_is_quiet_alone_and_whole(chromium: Any, shown: Registry, address: str) -> None:
    """Without JavaScript: the pages have none."""
    context = chromium.new_context(java_script_enabled=True)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name, path in places(shown).items():
        said.clear()
        answer = page.goto(address + path)
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        for width in SIZES:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(CUT)[:8] == [], (name, width)
            assert page.evaluate(BROKEN)[:8] == [], (name, width)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, (name, width)
        # A browser says in its console that a page is not there.
        assert [each for each in said if not (answer.status == 404 and "404" in each)] == [], name
    assert {url for url in asked if not url.startswith((address + "/", "data:"))} == set()
    context.close()


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(chromium: Any, shown: Registry, address: str, look: str) -> None:
    size, scheme = LOOKS[look]
    context = chromium.new_context(bypass_csp=True, viewport=size, color_scheme=scheme)
    page = context.new_page()
    for name, path in places(shown).items():
        page.goto(address + path)
        if look != "light":
            page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        page.add_script_tag(path=browser.AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found["violations"]]
        assert told == [], name
        assert len(found["passes"]) > 15
    context.close()


def test_by_keyboard_from_the_start_to_what_an_adapter_was_trained_on(
    chromium: Any, shown: Registry, address: str
) -> None:
    """No script, no mouse: every step is a link or a form that the keyboard reaches."""
    newest = shown.adapters.list(task="course_rec", sort="version:desc", limit=1)[0]
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)

    def go_to(name: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and (focused.text_content() or "").strip() == name:
                break
        else:
            pytest.fail(f"the keyboard does not reach {name}")
        with page.expect_navigation():
            page.keyboard.press("Enter")

    go_to("course_rec")
    assert page.url == f"{address}/tasks/course_rec"
    go_to(f"v{newest.version}")
    assert page.url == f"{address}/adapters/{newest.name}"
    go_to(newest.base)
    assert page.url == f"{address}/bases/{newest.base}"
    page.locator("#q").focus()
    page.keyboard.type("course_rec#prod")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    holder = shown.aliases.show("course_rec#prod").adapter
    assert page.url == f"{address}/adapters/{holder}"
    context.close()


def test_light_and_dark(chromium: Any, address: str) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(address)
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.close()
    assert grounds["light"] == "rgb(255, 255, 255)" != grounds["dark"]
