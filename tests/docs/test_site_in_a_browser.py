"""The documentation site in a real browser: alone, quiet and accessible, searched, in light and dark, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser
import built_site
import pytest

pytestmark = [
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(not browser.is_complete(), reason=browser.MISSING),
    pytest.mark.skipif(not built_site.PYTHON.exists(), reason=built_site.MISSING),
]
PAGES = (
    "", "guides/fuse/", "reference/settings/", "decisions/", "measurements/", "examples/webhooks/receiver.py/",
)  # fmt: skip
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.running() as running:
        yield running


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with built_site.serving(built_site.whole()) as served:
        yield served


class Reader:
    def __init__(self, chromium: Any, **look: Any) -> None:
        self.context = chromium.new_context(bypass_csp=True, **look)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def ground(self) -> str:
        colour: str = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour


@pytest.mark.parametrize("look", LOOKS)
def test_pages_are_alone_quiet_whole_and_accessible(chromium: Any, address: str, look: str) -> None:
    reader = Reader(chromium, **LOOKS[look])
    page = reader.page
    for name in PAGES:
        assert page.goto(f"{address}/dev/{name}").status == 200
        page.wait_for_selector(".md-version__current")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= LOOKS[look]["viewport"]["width"]
        page.add_script_tag(path=browser.AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found["violations"]]
        assert told == [], name
        assert len(found["passes"]) > 30
    light = sum(map(int, reader.ground().removeprefix("rgb(").rstrip(")").split(", "))) > 600
    assert light == (look == "light")
    assert reader.said == []
    assert {url for url in reader.asked if not url.startswith((address + "/", "data:", "blob:"))} == set()
    reader.context.close()


def test_the_search_finds_a_page_and_asks_nobody_else(chromium: Any, address: str) -> None:
    reader = Reader(chromium, **LOOKS["light"])
    page = reader.page
    page.goto(address)
    page.wait_for_url("**/dev/")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("combobox").fill("standard webhooks")
    page.get_by_role("option", name="Webhooks", exact=True).click()
    page.wait_for_url("**/guides/team/**#webhooks")
    assert any(url.endswith("/search.json") for url in reader.asked)
    assert reader.said == []
    assert {url for url in reader.asked if not url.startswith((address + "/", "data:", "blob:"))} == set()
    reader.context.close()
