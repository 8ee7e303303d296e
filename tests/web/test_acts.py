"""Acts from a page: each by its form, under the name of whoever sends it, and none without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import html_tree
import pytest
from page_server import Answer, ask, pages_of, post_form, post_json

from fusery.registry import Registry
from fusery.web.auth import LocalAuth
from fusery.web.forms import BY_NAME, FORMS

pytestmark = pytest.mark.timing

HTML = {"accept": "text/html"}


@dataclass(frozen=True)
class Pages:
    registry: Registry
    address: str
    door: LocalAuth
    newest: str

    @property
    def cookie(self) -> str:
        return f"{self.door.cookie}={self.door.key}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.door.key}"}

    def page(self, path: str) -> Answer:
        return ask(self.address, path, cookie=self.cookie, **HTML)

    def form_token(self, path: str) -> str:
        [token] = {
            field.attributes["value"]
            for field in html_tree.parse(self.page(path).text).all("input")
            if field.attributes.get("name") == "form_token"
        }
        return str(token)

    def send(self, act: str, **fields: str) -> Answer:
        token = self.form_token(f"/acts/{act}")
        return post_form(self.address, f"/acts/{act}", {"form_token": token, **fields}, cookie=self.cookie)


@pytest.fixture
def pages(own: Registry) -> Iterator[Pages]:
    door = LocalAuth("bea")
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    with pages_of(own, door) as address:
        yield Pages(own, address, door, newest)


def area(text: str, name: str) -> str:
    [found] = [each for each in html_tree.parse(text).all("textarea") if each.attributes["name"] == name]
    return str(found.text).strip().replace("\r\n", "\n")


def test_the_printed_address_lets_in(pages: Pages) -> None:
    entered = ask(pages.address, f"/enter/{pages.door.key}", **HTML)
    assert (entered.status, entered.headers["location"]) == (303, "/")
    assert entered.headers["set-cookie"].split("; ")[0] == pages.cookie
    assert {"HttpOnly", "SameSite=strict"} <= set(entered.headers["set-cookie"].split("; "))
    once = pages.door.once
    assert ask(pages.address, f"/enter/{once}", **HTML).headers["set-cookie"].split("; ")[0] == pages.cookie
    assert ask(pages.address, f"/enter/{once}", **HTML).status == 404
    other = ask(pages.address, "/enter/" + "x" * 43, **HTML)
    assert other.status == 404 and "set-cookie" not in other.headers


def test_who_has_not_the_key_reads_alone(pages: Pages) -> None:
    page = ask(pages.address, f"/adapters/{pages.newest}", **HTML)
    assert (page.status, "/acts/" in page.text) == (200, False)
    assert "/acts/adapters/yank-all" in pages.page(f"/adapters/{pages.newest}").text
    token = pages.form_token("/acts/adapters/yank-all")
    before = pages.registry.upkeep.log(limit=1)
    fields = {"form_token": token, "references": pages.newest, "reason": "for no reason"}
    for act in FORMS:
        assert ask(pages.address, f"/acts/{act.name}", **HTML).status == 403, act.name
        for cookie in ({}, {"cookie": f"{pages.door.cookie}=" + "y" * 43}):
            assert post_form(pages.address, f"/acts/{act.name}", fields, **cookie).status == 403, act.name
    tries: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"form_token": ""}, {}),
        ({"form_token": "ü"}, {}),
        ({}, {"origin": "http://evil.example"}),
        ({}, {"origin": "null"}),
        ({}, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}),
        ({}, {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"}),
        ({}, {"host": "evil.example"}),
    ]
    for more, headers in tries:
        refused = post_form(
            pages.address, "/acts/adapters/yank-all", fields | more, cookie=pages.cookie, **headers
        )
        assert refused.status == 403, (more, headers)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json"):
        sent = {"method": "POST", "body": urlencode(fields), "cookie": pages.cookie, "content_type": kind}
        assert ask(pages.address, "/acts/adapters/yank-all", **sent).status == 400, kind
    assert pages.registry.upkeep.log(limit=1) == before
    # Behind a proxy that passes on its own host name, only the browser knows that the page is ours.
    behind = {"origin": "https://registry.example", "sec-fetch-site": "same-origin", "cookie": pages.cookie}
    assert post_form(pages.address, "/acts/adapters/yank-all", fields, **behind).status == 303


def test_a_page_offers_what_it_has_and_no_command(pages: Pages) -> None:
    rules = {"metrics": {"acc": {"at_least": 0.75}}}
    pages.registry.aliases.set_rules("course_rec#prod", rules, guarded=True, reason="x")
    promotion = f"/acts/aliases/promote?reference={pages.newest}&alias=course_rec%23prod"
    for path in ("/aliases/course_rec/prod", promotion):
        page = pages.page(path)
        assert "acc at least 0.75" in page.text and "at_least" not in page.text
    back = pages.send("aliases/roll-back", alias="course_rec#prod", reason="it swears")
    assert (back.status, "Emergency" in back.text, "fusery " in back.text) == (409, True, False)
    moved = pages.send("aliases/set", alias="course_rec#prod", adapter=pages.newest, reason="x")
    assert (moved.status, "Promote" in moved.text, "fusery promote" in moved.text) == (409, True, False)
    forced = pages.send("aliases/roll-back", alias="course_rec#prod", reason="it swears", emergency="yes")
    assert forced.status in (200, 303), forced.text[-900:]


def test_a_promotion_shows_what_holds_before_and_after(pages: Pages) -> None:
    registry, newest = pages.registry, pages.newest
    held = registry.aliases.show("course_rec#prod").adapter
    assert f"/acts/aliases/promote?reference={newest}" in pages.page(f"/adapters/{newest}").text
    choice = pages.page(f"/acts/aliases/promote?reference={newest}")
    assert f"alias={quote('course_rec#prod', safe='')}" in choice.text
    before = pages.page(f"/acts/aliases/promote?reference={newest}&alias=course_rec%23prod")
    outcomes = registry.aliases.promote(newest, "prod", dry_run=True)
    assert (before.status, outcomes.verdict) == (200, "failed")
    for each in outcomes.rules:
        assert f'<th scope="row">{each.rule}</th>' in before.text, each
        assert each.state in before.text
    for reason in ("", "x\x00y"):
        assert pages.send("aliases/promote", reference=newest, alias="prod", reason=reason).status == 400
    body = {"reference": newest, "alias": "course_rec#prod", "reason": "a program"}
    program = post_json(pages.address, "/api/v1/aliases/promote", body, **pages.bearer)
    assert (program.status, program.json["moved"]) == (409, False)
    sent = pages.send(
        "aliases/promote", reference=newest, alias="course_rec#prod", reason="it is the <b>newest</b>"
    )
    assert sent.status == 409
    assert "<b>newest" not in sent.text
    last = registry.upkeep.log(limit=1)[0]
    assert (last.actor, last.action) == ("bea", "alias.refused")
    assert registry.aliases.show("course_rec#prod").adapter == held


def test_each_act_is_done_under_the_name_and_leads_to_its_page(pages: Pages) -> None:
    registry, newest = pages.registry, pages.newest
    registry.deployments.record(newest, "https://edge.example/1")
    adapter, canary, prod = {"reference": newest}, {"alias": "course_rec#canary"}, {"alias": "prod"}
    page, alias, vllm = f"/adapters/{newest}", "/aliases/course_rec/canary", {"place": "vllm@gpu-1:8000"}
    edge, several = {"places": "https://edge.example/1"}, {"references": newest}
    steps: list[tuple[str, dict[str, str], str, str]] = [
        ("aliases/approve", {**adapter, **prod, "note": "read\r\nit"}, "adapter.approved", page),
        ("aliases/withdraw-approval", {**adapter, **prod}, "adapter.unapproved", page),
        ("aliases/set", {"adapter": newest, "alias": "canary", "reason": "try"}, "alias.moved", alias),
        ("aliases/set", {**canary, "adapter": "course_rec@1", "reason": "try"}, "alias.moved", alias),
        ("aliases/roll-back", {**canary, "reason": "no"}, "alias.moved", alias),
        (
            "adapters/yank-all",
            {**several, "reason": "it was trained on the test set"},
            "adapter.yanked",
            page,
        ),
        ("adapters/unyank-all", {**several, "reason": "it was not"}, "adapter.unyanked", page),
        ("adapters/amend", {**adapter, "note": "x", "tags": "a=b\r\nstage = beta"}, "adapter.amended", page),
        ("adapters/amend", {**adapter, "note": "", "tags": "team=nlp\r\nstage="}, "adapter.amended", page),
        ("deployments/record", {**adapter, **vllm, "note": ""}, "deployment.recorded", "/places"),
        ("deployments/end", {**edge, "reason": "moved"}, "deployment.ended", "/places"),
    ]
    assert {name for name, *_ in steps} | {"aliases/promote"} == set(BY_NAME)
    for name, fields, action, then in steps:
        done = pages.send(name, **fields)
        assert (done.status, done.headers.get("location")) == (303, then), (name, done.text[-1500:])
        assert pages.page(then).status == 200
        last = registry.upkeep.log(limit=1)[0]
        assert (last.actor, last.action) == ("bea", action), name
    shown = registry.adapters.show(newest)
    assert (shown.note, shown.tags["team"], "stage" in shown.tags) == (None, "nlp", False)
    assert registry.aliases.show("course_rec#canary").adapter == newest


def test_forms_begin_with_what_is_there(pages: Pages) -> None:
    newest = pages.newest
    pages.registry.adapters.amend(newest, note="for <people>\nto read", tags={"team": "nlp", "stage": "beta"})
    note = area(pages.page(f"/acts/adapters/amend?reference={newest}").text, "note")
    assert note == "for <people>\nto read"
    tags = area(pages.page(f"/acts/adapters/amend?reference={newest}").text, "tags")
    assert dict(line.split("=", 1) for line in tags.split("\n")) == pages.registry.adapters.show(newest).tags
    assert area(pages.page(f"/acts/adapters/amend?reference={newest}&note=new").text, "note") == "new"


def test_what_is_wrong_keeps_what_was_written(pages: Pages) -> None:
    newest, before = pages.newest, pages.registry.upkeep.log(limit=1)
    written = 'line one\r\n<script>alert("1")</script> \u202e'
    wrong = pages.send("adapters/amend", reference=newest, tags="no tag", reason=written)
    assert wrong.status == 400 and "no tag" in wrong.text
    assert "<script>" not in wrong.text
    assert area(wrong.text, "reason") == written.replace("\r\n", "\n").strip()
    for act, fields, status in [
        ("aliases/approve", {"reference": newest, "alias": "prdo"}, 400),
        ("adapters/yank-all", {"references": "nope@1", "reason": "x"}, 404),
        ("aliases/set", {"adapter": newest, "alias": "prod", "reason": "x"}, 409),
        ("deployments/end", {"places": "nowhere", "reason": "x"}, 404),
        ("deployments/record", {"reference": newest, "place": " ", "note": ""}, 400),
        ("aliases/promote", {"reference": newest, "alias": "../..", "reason": "x"}, 400),
    ]:
        answer = pages.send(act, **fields)
        assert answer.status == status, (act, fields, answer.status, answer.text[-900:])
        assert 'role="alert"' in answer.text
    assert pages.registry.upkeep.log(limit=1) == before


def test_programs_do_the_same_with_the_key(pages: Pages) -> None:
    body = {"adapter": pages.newest, "alias": "canary", "reason": "a program says so"}

    def send(document: object, **headers: str) -> Answer:
        return post_json(pages.address, "/api/v1/aliases/set", document, **(headers or pages.bearer))

    done = send(body)
    assert done.status == 200, done.text
    assert (done.json["alias"], done.json["moved"]) == ("course_rec#canary", True)
    assert (pages.registry.upkeep.log(limit=1)[0].actor, done.json["to"]) == ("bea", pages.newest)
    # A page of another site can make a browser send the cookie, but no custom header.
    assert send(body, cookie=pages.cookie).status == 403
    wrong = [{**body, "reason": text} for text in ("\x00", "a\x00b", "\ud800")]
    for document in (*wrong, {}, {**body, "more": 1}, {**body, "adapter": 3}, [], "x"):
        refused = send(document)
        assert refused.status == 400 and refused.json["error"]["message"], document
    untyped = {"method": "POST", "body": json.dumps(body), **pages.bearer}
    assert ask(pages.address, "/api/v1/aliases/set", **untyped).status == 400
    for secret in ("Bearer x", "Basic eA=="):
        assert send(body, authorization=secret).status == 401
    assert send({**body, "reason": "x" * (1 << 20)}).status == 413
