"""What strangers write into fields, addresses and headers is text everywhere, or refused in a sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from urllib.parse import quote

import html_tree
import pytest
from hostile_texts import TEXTS
from page_server import Answer, ask, pages_of, post_form, post_json

from fusery.registry import Registry
from fusery.web.acts import ACTS, Act
from fusery.web.doors import OwnDoor

pytestmark = pytest.mark.timing

HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}
SOAK = "FUSERY_SOAK" in os.environ
NEVER = {"script", "iframe", "object", "embed", "base", "applet", "frame"}


@dataclass(frozen=True)
class Open:
    registry: Registry
    address: str
    cookie: str
    bearer: dict[str, str]
    adapter: str

    @property
    def form_token(self) -> str:
        page = ask(self.address, "/acts/yank", cookie=self.cookie, **HTML)
        return page.text.partition('name="form_token" value="')[2].partition('"')[0]

    def values(self, act: Act) -> dict[str, str]:
        known = {"adapter": self.adapter, "alias": "course_rec#canary", "place": "https://edge.example/1"}
        values = {field.name: "t=v" if field.kind == "pairs" else "fine" for field in act.fields}
        return values | {name: value for name, value in known.items() if name in values}


@pytest.fixture
def opened(own: Registry) -> Iterator[Open]:
    door = OwnDoor("bea")
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    with pages_of(own, door) as address:
        cookie, bearer = f"{door.cookie}={door.key}", {"authorization": f"Bearer {door.key}"}
        yield Open(own, address, cookie, bearer, newest)


def some(*about: str) -> Iterable[str]:
    """Return the texts, or in `make test` some of them, others for each place: all come somewhere."""
    return TEXTS if SOAK else Random(" ".join(about)).sample(TEXTS, 6)


def harmless(page: Answer) -> None:
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "set-cookie" not in page.headers
    tree = html_tree.parse(page.text)
    for element in tree.walk():
        assert element.name not in NEVER, element
        assert not any(name.startswith("on") for name in element.attributes), element
        assert "srcdoc" not in element.attributes and element.attributes.get("http-equiv") is None
        for name in ("href", "src", "action"):
            place = element.attributes.get(name, "/")
            assert place.startswith(("/", "?", "#", "data:,")) and not place.startswith("//"), (name, place)
    assert tree.all("main") and len(tree.all("form")) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS, ids=[act.name for act in ACTS])
def test_every_field_of_every_act(opened: Open, act: Act) -> None:
    token = opened.form_token
    for field in act.fields:
        for text in some(act.name, field.name):
            if field.kind == "flag":
                continue
            written = f"tag={text}" if field.kind == "pairs" else text
            values = {**opened.values(act), field.name: written, "form_token": token}
            page = post_form(opened.address, f"/acts/{act.name}", values, cookie=opened.cookie)
            assert page.status < 500, (field.name, text, page.text[:500])
            if page.status != 303:
                harmless(page)
            else:
                assert page.headers["location"].startswith("/") and "\n" not in page.headers["location"]
    for path in (f"/adapters/{opened.adapter}", "/aliases/course_rec/canary", "/places", "/log", "/"):
        page = ask(opened.address, path, cookie=opened.cookie, **HTML)
        if page.status != 404:
            harmless(page)
    assert opened.registry.upkeep.audit().problems == []


@pytest.mark.slow
def test_what_was_written_is_what_is_read(opened: Open) -> None:
    kept = 0
    for text in TEXTS:
        body = {"reference": opened.adapter, "note": text}
        answer = post_json(opened.address, "/api/v1/adapters/amend", body, **opened.bearer)
        if answer.status == 200:
            note = ask(opened.address, f"/api/v1/adapters/show?reference={opened.adapter}").json["note"]
            # A password in a URL is all that is left out; spaces around a text are none of it.
            assert note == text.strip() or "user:password@" in text, text
            page = ask(opened.address, f"/adapters/{opened.adapter}", **HTML)
            harmless(page)
            assert "password@" not in page.text and "password@" not in json.dumps(note)
            kept += 1
        else:
            assert answer.status == 400, (text, answer.text)
    assert kept >= 20


@pytest.mark.slow
def test_every_address(opened: Open) -> None:
    places = [
        "/?q={}", "/?after={}", "/tasks/{}", "/tasks/course_rec?where={}", "/tasks/course_rec?sort={}",
        "/tasks/course_rec?offset={}", "/adapters/{}", "/compare?ref={}&ref=course_rec@1", "/aliases/{}/prod",
        "/aliases/course_rec/{}", "/bases/{}", "/fused/{}", "/lineage/{}", "/places?at={}", "/log?reference={}",
        "/log?action={}", "/log?since={}", "/log?before={}", "/search?q={}", "/acts/promote?adapter={}&alias=prod",
        "/acts/promote?adapter=course_rec@1&alias={}", "/acts/yank?reason={}", "/enter/{}", "/{}", "/static/{}",
    ]  # fmt: skip
    for place in places:
        for text in some(place):
            path = place.format(quote(text[:3_000], safe=""))
            page = ask(opened.address, path, cookie=opened.cookie, **HTML)
            assert page.status < 500, (place, text, page.text[:300])
            if page.status != 303:
                harmless(page)
            if page.status >= 400 and not place.startswith("/acts/"):  # forms are for people
                answer = ask(opened.address, path, cookie=opened.cookie, **JSON)
                assert answer.json.get("error", {}).get("message"), (place, text, answer.text[:300])


HEADERS = ("accept", "cookie", "user-agent", "referer", "x-forwarded-user", "accept-language", "range")


def test_every_header(opened: Open) -> None:
    for name in HEADERS:
        for text in some(name):
            sent = text.translate(dict.fromkeys(map(ord, "\r\n\0"), " ")).encode("utf-8").decode("latin-1")
            assert ask(opened.address, "/log", **{name: sent}).status in (200, 400), (name, text)


def test_hostile_fields_of_a_form(opened: Open) -> None:
    """The fast part of `test_every_field_of_every_act`."""
    token = opened.form_token
    for text in some("yank"):
        values = {"adapter": text, "reason": text, "form_token": token}
        page = post_form(opened.address, "/acts/yank", values, cookie=opened.cookie)
        assert 400 <= page.status < 500, text
        harmless(page)
