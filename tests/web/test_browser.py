"""The pages in a real browser: quiet, alone, whole and accessible, on a screen and a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import browser
import pytest
from browser import BROKEN, CUT
from page_server import pages_of, post_json
from report_registry import acts, places

from fusery.registry import Registry
from fusery.web.auth import LocalAuth, Proxies, TokenAuth
from fusery.web.routes import API

MARK = pytest.mark
pytestmark = [MARK.slow, MARK.timing, MARK.skipif(not browser.is_complete(), reason=browser.MISSING)]
LOOKS: dict[str, tuple[dict[str, int], str]] = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark phone": ({"width": 390, "height": 844}, "dark"),
}
SIZES = (320, 660, 1280)
"""The style has breaks at 640 and 704 pixels."""


@pytest.fixture(scope="module")
def team(shown: Registry) -> Iterator[str]:
    with pages_of(shown, TokenAuth(shown, Proxies())) as served:
        yield served


def every(registry: Registry, address: str, team: str) -> dict[str, str]:
    own = {name: address + path for name, path in (places(registry) | acts(registry)).items()}
    return own | {"to sign in": f"{team}/sign-in?then=/log"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.running() as running:
        yield running


def test_every_page_is_quiet_alone_and_whole(
    chromium: Any, shown: Registry, address: str, door: LocalAuth, team: str
) -> None:
    """Without JavaScript: the pages have none."""
    context = chromium.new_context(java_script_enabled=True)
    page = context.new_page()
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/enter/{door.key}")
    for name, place in every(shown, address, team).items():
        said.clear()
        answer = page.goto(place)
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        for width in SIZES:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(CUT)[:8] == [], (name, width)
            assert page.evaluate(BROKEN)[:8] == [], (name, width)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, (name, width)
        # A browser says in its console that a page is not there.
        noise = [each for each in said if not (answer.status >= 400 and str(answer.status) in each)]
        assert noise == [], name
    assert {url for url in asked if not url.startswith((address + "/", team + "/", "data:"))} == set()
    context.close()


def test_axe_finds_nothing(chromium: Any, shown: Registry, address: str, door: LocalAuth, team: str) -> None:
    """Every page is loaded once, and turned to each look: no script of its own would notice."""
    context = chromium.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(f"{address}/enter/{door.key}")
    for name, place in every(shown, address, team).items():
        page.goto(place)
        page.add_script_tag(path=browser.AXE)
        for look in LOOKS if "/acts/" not in place else ("light",):  # forms have no colours of their own
            size, scheme = LOOKS[look]
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            told = [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]]
            assert told == [], (name, look)
            assert len(found["passes"]) > 15
    context.close()


def reach(page: Any, found: Callable[[Any], bool], name: str) -> None:
    for _ in range(200):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and found(focused):
            return
    pytest.fail(f"the keyboard does not reach {name}")


def press(page: Any, name: str) -> None:
    reach(page, lambda focused: (focused.text_content() or "").strip() == name, name)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def write(page: Any, label: str, text: str) -> None:
    labels = "each => each.labels?.[0]?.textContent ?? ''"
    reach(page, lambda focused: label in focused.evaluate(labels), label)
    page.keyboard.type(text)


def test_a_promotion_by_keyboard_alone(chromium: Any, own: Registry) -> None:
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    secret, other = (own.tokens.create(name, "approver").secret for name in ("lead", "colleague"))
    own.aliases.set_rules("course_rec#prod", {"approvals": 1}, reason="the only one that this story needs")
    with pages_of(own, TokenAuth(own, Proxies())) as address:
        page = chromium.new_context(java_script_enabled=False).new_page()

        def promote() -> str:
            page.goto(f"{address}/adapters/{newest}")
            press(page, "Promote")
            press(page, "course_rec#prod")
            write(page, "Reason", "it won")
            press(page, "Promote")
            return str(page.locator("main").text_content())

        page.goto(f"{address}/adapters/{newest}")
        write(page, "Token", secret)
        press(page, "Sign in")
        assert page.url == f"{address}/adapters/{newest}"
        assert "was not moved" in promote()
        approval = {"reference": newest, "alias": "prod", "note": "read its answers"}
        path = f"{API}/aliases/approve"
        assert post_json(address, path, approval, authorization=f"Bearer {other}").status == 200
        assert "holds it now" in promote()
        press(page, "To course_rec#prod")
        assert page.url == f"{address}/aliases/course_rec/prod"
        press(page, "Sign out")
        assert page.url == f"{address}/sign-in"
        page.context.close()
    assert own.aliases.show("course_rec#prod").adapter == newest
    assert own.upkeep.log(limit=1)[0].actor == "lead"
