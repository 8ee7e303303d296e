"""What strangers write into fields, addresses and headers is text everywhere, or refused in a sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from random import Random
from urllib.parse import quote

import html_tree
import pytest
from page_server import Answer, ask, post_form, post_json

from fusery.web.forms import FORMS, Form

from .conftest import HTML, Pages

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

JSON = {"accept": "application/json"}
SOAK = "FUSERY_SOAK" in os.environ
NEVER = {"script", "iframe", "object", "embed", "base", "applet", "frame"}


def values_of(form: Form, adapter: str) -> dict[str, str]:
    known = dict.fromkeys(("reference", "references", "adapter"), adapter)
    known |= {"alias": "course_rec#canary"} | dict.fromkeys(("place", "places"), "https://edge.example/1")
    values = {field.name: "t=v" if field.kind == "pairs" else "fine" for field in form.fields}
    return values | {name: value for name, value in known.items() if name in values}


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
def test_every_field_of_every_act(pages: Pages) -> None:
    token = pages.form_token("/acts/adapters/yank-all")
    fields = [(form, field) for form in FORMS for field in form.fields if field.kind != "flag"]
    for form, field in fields:
        for text in some(form.name, field.name):
            written = f"tag={text}" if field.kind == "pairs" else text
            values = {**values_of(form, pages.newest), field.name: written, "form_token": token}
            page = post_form(pages.address, f"/acts/{form.name}", values, cookie=pages.cookie)
            assert page.status < 500, (form.name, field.name, text, page.text[:500])
            if page.status != 303:
                harmless(page)
            else:
                assert page.headers["location"].startswith("/") and "\n" not in page.headers["location"]
    for path in (f"/adapters/{pages.newest}", "/aliases/course_rec/canary", "/places", "/log", "/"):
        page = ask(pages.address, path, cookie=pages.cookie, **HTML)
        if page.status != 404:
            harmless(page)
    assert pages.registry.upkeep.audit().problems == []


@pytest.mark.slow
def test_what_was_written_is_what_is_read(pages: Pages) -> None:
    kept = 0
    for text in TEXTS:
        body = {"reference": pages.newest, "note": text}
        answer = post_json(pages.address, "/api/v1/adapters/amend", body, **pages.bearer)
        if answer.status == 200:
            note = ask(pages.address, f"/api/v1/adapters/show?reference={pages.newest}").json["note"]
            # A password in a URL is all that is left out; spaces around a text are none of it.
            assert note == text.strip() or "user:password@" in text, text
            assert "password@" not in json.dumps(note)
            if SOAK or kept % 3 == 0 or "password" in text:
                page = ask(pages.address, f"/adapters/{pages.newest}", **HTML)
                harmless(page)
                assert "password@" not in page.text
            kept += 1
        else:
            assert answer.status == 400, (text, answer.text)
    assert kept >= 20


@pytest.mark.slow
def test_every_address(pages: Pages) -> None:
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
            page = ask(pages.address, path, cookie=pages.cookie, **HTML)
            assert page.status < 500, (place, text, page.text[:300])
            if page.status != 303:
                harmless(page)
            if page.status >= 400 and not place.startswith("/acts/"):  # forms are for people
                answer = ask(pages.address, path, cookie=pages.cookie, **JSON)
                assert answer.json.get("error", {}).get("message"), (place, text, answer.text[:300])


HEADERS = ("accept", "cookie", "user-agent", "referer", "x-forwarded-user", "accept-language", "range")


def test_every_header(pages: Pages) -> None:
    for name in HEADERS:
        for text in some(name):
            sent = text.translate(dict.fromkeys(map(ord, "\r\n\0"), " ")).encode("utf-8").decode("latin-1")
            assert ask(pages.address, "/log", **{name: sent}).status in (200, 400), (name, text)
