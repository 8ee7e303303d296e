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
from page_server import Answer, ask, pages_of, post_form, post_json

from fusery.registry import Registry
from fusery.web.auth import LocalAuth
from fusery.web.forms import FORMS, Form

TEXTS = (
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "' onfocus='alert(4)' autofocus='",
    "<a href='javascript:alert(5)'>x</a>",
    "<!-- ]]> --> <?php",
    "<base href=//evil.example>",
    "<form action=//evil.example><button>Sign in",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "{{ 7*7 }} {% raw %}",
    "{{ ''.__class__.__mro__ }}",
    "${7*7} #{7*7} %(x)s %s {0}",
    "$(touch /tmp/x) `id` ; rm -rf . | cat",
    "' OR 1=1 --",
    "'; DROP TABLE event; --",
    "..",
    "../../../../etc/passwd",
    "//evil.example/%2e%2e",
    "\u202egnp.exe\u202c",
    "\u200b\u200d\ufeff",
    "a\u0300\u0301\u0302\u0303" * 20,
    "\x1b[31mred\x1b[0m\x07",
    "line\r\nSet-Cookie: x=1\r\n\r\nbody",
    "nul\x00byte",
    "\ud83d\ude00\ud83c\udff3\ufe0f\u200d\ud83c\udf08".encode("utf-16", "surrogatepass").decode("utf-16"),
    "\u0130stanbul \u212a \ufb03 \u00df",
    '=HYPERLINK("http://evil.example")',
    "https://user:password@evil.example/x?token=secret",
    "x" * 5_000,
    "1e999",
    "-0",
)


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
        page = ask(self.address, "/acts/adapters/yank-all", cookie=self.cookie, **HTML)
        return page.text.partition('name="form_token" value="')[2].partition('"')[0]

    def values(self, form: Form) -> dict[str, str]:
        known = dict.fromkeys(("reference", "references", "adapter"), self.adapter)
        known |= {"alias": "course_rec#canary"} | dict.fromkeys(("place", "places"), "https://edge.example/1")
        values = {field.name: "t=v" if field.kind == "pairs" else "fine" for field in form.fields}
        return values | {name: value for name, value in known.items() if name in values}


@pytest.fixture
def opened(own: Registry) -> Iterator[Open]:
    door = LocalAuth("bea")
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    with pages_of(own, door) as address:
        cookie, bearer = f"{door.cookie}={door.key}", {"authorization": f"Bearer {door.key}"}
        yield Open(own, address, cookie, bearer, newest)


def some(*about: str) -> Iterable[str]:
    """Return the texts, or in `make test` some of them, others for each place: all come somewhere."""
    return TEXTS if SOAK else Random(" ".join(about)).sample(TEXTS, 3)


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
@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_every_field_of_every_act(opened: Open, form: Form) -> None:
    token = opened.form_token
    for field in form.fields:
        for text in some(form.name, field.name):
            if field.kind == "flag":
                continue
            written = f"tag={text}" if field.kind == "pairs" else text
            values = {**opened.values(form), field.name: written, "form_token": token}
            page = post_form(opened.address, f"/acts/{form.name}", values, cookie=opened.cookie)
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
            assert "password@" not in json.dumps(note)
            if SOAK or kept % 3 == 0 or "password" in text:
                page = ask(opened.address, f"/adapters/{opened.adapter}", **HTML)
                harmless(page)
                assert "password@" not in page.text
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
        "/log?action={}", "/log?since={}", "/log?before={}", "/search?q={}", "/acts/aliases/promote?reference={}&alias=prod",
        "/acts/aliases/promote?reference=course_rec@1&alias={}", "/acts/adapters/yank-all?reason={}", "/enter/{}", "/{}", "/static/{}",
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
        values = {"references": text, "reason": text, "form_token": token}
        page = post_form(opened.address, "/acts/adapters/yank-all", values, cookie=opened.cookie)
        assert 400 <= page.status < 500, text
        harmless(page)
