"""The pages in a real browser: quiet, alone, whole and accessible, on a screen and a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import tiny_models
from page_addresses import acts, places
from page_measures import BROKEN, CUT
from page_server import pages_of
from waiting import wait_until

from fusery.registry import Registry
from fusery.web.doors import OwnDoor, Proxies, TeamDoor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timing,
    pytest.mark.skipif(not browser.is_complete(), reason=browser.MISSING),
]
LOOKS: dict[str, tuple[dict[str, int], str]] = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark": ({"width": 1280, "height": 900}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
    "dark phone": ({"width": 390, "height": 844}, "dark"),
}
RULES = {"light": "", "dark": "runOnly: ['color-contrast', 'link-in-text-block']"}
"""What looks at colours is all that can find something else in the dark than in the light."""

SIZES = (320, 390, 768, 1090, 1280)


@pytest.fixture(scope="module")
def team(shown: Registry) -> Iterator[str]:
    """Where a team signs in."""
    with pages_of(shown, TeamDoor(shown, Proxies())) as served:
        yield served


def every(registry: Registry, address: str, team: str) -> dict[str, str]:
    """Return every page, and every form."""
    own = {name: address + path for name, path in (places(registry) | acts(registry)).items()}
    return own | {"to sign in": f"{team}/sign-in?then=/log"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browser.running() as running:
        yield running


def test_every_page_is_quiet_alone_and_whole(
    chromium: Any, shown: Registry, address: str, door: OwnDoor, team: str
) -> None:
    """Without JavaScript: the pages have none."""
    context = chromium.new_context(java_script_enabled=True)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
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
        assert [each for each in said if not (answer.status >= 400 and str(answer.status) in each)] == [], (
            name
        )
    assert {url for url in asked if not url.startswith((address + "/", team + "/", "data:"))} == set()
    context.close()


def test_axe_finds_nothing(chromium: Any, shown: Registry, address: str, door: OwnDoor, team: str) -> None:
    """Every page is loaded once, and turned to each look: no script of its own would notice."""
    context = chromium.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(f"{address}/enter/{door.key}")
    for name, place in every(shown, address, team).items():
        page.goto(place)
        page.add_script_tag(path=browser.AXE)
        for look, (size, scheme) in LOOKS.items():
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            if look != "light":
                page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            found = page.evaluate(f"axe.run(document, {{resultTypes: ['violations'], {RULES[scheme]}}})")
            told = [
                (each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found["violations"]
            ]
            assert told == [], (name, look)
            assert len(found["passes"]) > (15 if scheme == "light" else 0)
    context.close()


def reach(page: Any, found: Callable[[Any], bool], name: str) -> None:
    """Press the tabulator until something is reached."""
    for _ in range(200):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and found(focused):
            return
    pytest.fail(f"the keyboard does not reach {name}")


def press(page: Any, name: str) -> None:
    """Reach a link or a button by its words, and press it."""
    reach(page, lambda focused: (focused.text_content() or "").strip() == name, name)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def write(page: Any, label: str, text: str) -> None:
    """Reach a field by its label, and write into it."""
    reach(
        page,
        lambda focused: label in (focused.evaluate("each => each.labels?.[0]?.textContent ?? ''")),
        label,
    )
    page.keyboard.type(text)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_promotion_by_keyboard_alone(chromium: Any, own: Registry, scripts: bool) -> None:
    """A lead looks at the newest version, sees which rules hold, has a colleague approve, and promotes it."""
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    secrets = {name: own.tokens.create(name, "approver").secret for name in ("lead", "colleague")}
    rules = dict(own.aliases.rules("course_rec#prod").rules)
    own.aliases.set_rules("course_rec#prod", {"approvals": 1}, reason="the only one that this story needs")
    assert rules
    with pages_of(own, TeamDoor(own, Proxies())) as address:

        def signed_in(name: str) -> Any:
            page = chromium.new_context(java_script_enabled=scripts).new_page()
            page.goto(f"{address}/adapters/{newest}")
            write(page, "Token", secrets[name])
            press(page, "Sign in")
            assert page.url == f"{address}/adapters/{newest}"
            return page

        lead, colleague = signed_in("lead"), signed_in("colleague")
        press(lead, "Promote")
        press(lead, "course_rec#prod")
        assert "failed" in lead.locator("#rules-table, table").first.text_content()
        write(lead, "Reason", "it won")
        press(lead, "Promote")
        assert "was not moved" in lead.locator("main").text_content()
        press(colleague, "Approve")
        press(colleague, "course_rec#prod")
        write(colleague, "Note", "read its answers")
        press(colleague, "Approve")
        lead.goto(f"{address}/adapters/{newest}")
        press(lead, "Promote")
        press(lead, "course_rec#prod")
        write(lead, "Reason", "it won")
        press(lead, "Promote")
        assert "holds it now" in lead.locator("main").text_content()
        press(lead, "To course_rec#prod")
        assert lead.url == f"{address}/aliases/course_rec/prod"
        for page in (lead, colleague):
            press(page, "Sign out")
            assert page.url == f"{address}/sign-in"
            page.context.close()
    assert own.aliases.show("course_rec#prod").adapter == newest
    assert [(each.actor, each.action) for each in own.upkeep.log(limit=3)] == [
        ("lead", "alias.refused"),
        ("colleague", "adapter.approved"),
        ("lead", "alias.moved"),
    ]


def test_a_wide_lineage_is_panned_in_its_frame(chromium: Any, own: Registry, tmp_path: Path) -> None:
    """By keyboard, without JavaScript: the page itself stays, and a box that comes into view leads to its page."""
    made = tiny_models.make_base(tmp_path / "base", layers=2)
    own.bases.add(made, name="deep", reference=True)
    parent = ""
    for number in range(9):
        folder = tiny_models.make_adapter(tmp_path / f"a{number}", made, seed=number, num_layers=1)
        more = {"parent": parent} if parent else {}
        parent = own.adapters.register(folder, base="deep", task="deep", **more).name
    context = chromium.new_context(viewport={"width": 1280, "height": 300}, java_script_enabled=False)
    page = context.new_page()
    with pages_of(own) as address:
        page.goto(f"{address}/lineage/{parent}")
        frame = page.locator(".pans")
        reach(page, lambda focused: "pans" in (focused.get_attribute("class") or ""), "the picture")
        measures = "each => [each.scrollLeft, each.scrollWidth - each.clientWidth]"
        left, wider = frame.evaluate(measures)
        assert left == 0 and wider > 1_000
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        wait_until(lambda: frame.evaluate(measures)[0] > 50)
        assert page.evaluate("() => document.scrollingElement.scrollWidth <= innerWidth")
        box = frame.locator(".desk a").last
        box.scroll_into_view_if_needed()
        with page.expect_navigation():
            box.click()
        assert page.url.startswith(address) and "/lineage/" not in page.url
    context.close()
