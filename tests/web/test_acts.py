"""Acts from a page: each by its form, under the name of whoever sends it, and none without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import html_tree
import pytest
from page_server import Answer, ask, pages_of, post_form, post_json

from fusery.registry import Registry
from fusery.web.acts import ACTS, BY_NAME
from fusery.web.doors import OwnDoor

HTML = {"accept": "text/html"}


@dataclass(frozen=True)
class Pages:
    """Pages that a test may change something by."""

    registry: Registry
    address: str
    door: OwnDoor

    @property
    def cookie(self) -> str:
        """What the browser of who has the key sends."""
        return f"{self.door.cookie}={self.door.key}"

    def form_token(self, path: str) -> str:
        """Return the token of the form on a page."""
        page = ask(self.address, path, cookie=self.cookie, **HTML)
        [token] = {
            field.attributes["value"]
            for field in html_tree.parse(page.text).all("input")
            if field.attributes.get("name") == "form_token"
        }
        return str(token)

    def send(self, act: str, **fields: str) -> Answer:
        """Fill in the form of an act, and send it."""
        token = self.form_token(f"/acts/{act}")
        return post_form(self.address, f"/acts/{act}", {"form_token": token, **fields}, cookie=self.cookie)


@pytest.fixture
def pages(own: Registry) -> Iterator[Pages]:
    door = OwnDoor("bea")
    with pages_of(own, door) as address:
        yield Pages(own, address, door)


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
    adapter = pages.registry.adapters.list(task="course_rec", limit=1)[0].name
    page = ask(pages.address, f"/adapters/{adapter}", **HTML)
    assert (page.status, "/acts/" in page.text) == (200, False)
    assert "/acts/yank" in ask(pages.address, f"/adapters/{adapter}", cookie=pages.cookie, **HTML).text
    token = pages.form_token("/acts/yank")
    before = pages.registry.upkeep.log(limit=1)
    for act in ACTS:
        assert ask(pages.address, f"/acts/{act.name}", **HTML).status == 403, act.name
        fields = {"form_token": token, "adapter": adapter, "alias": "prod", "reason": "for no reason"}
        assert post_form(pages.address, f"/acts/{act.name}", fields).status == 403, act.name
        stale = f"{pages.door.cookie}=" + "y" * 43
        assert post_form(pages.address, f"/acts/{act.name}", fields, cookie=stale).status == 403, act.name
    assert pages.registry.upkeep.log(limit=1) == before


def test_a_page_offers_what_it_has_and_no_command(pages: Pages) -> None:
    newest = pages.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    pages.registry.aliases.set_rules(
        "course_rec#prod", {"metrics": {"acc": {"at_least": 0.75}}}, guarded=True, reason="x"
    )
    alias = ask(pages.address, "/aliases/course_rec/prod", cookie=pages.cookie, **HTML)
    assert "acc at least 0.75" in alias.text and "at_least" not in alias.text
    place = f"/acts/promote?adapter={newest}&alias=course_rec%23prod"
    promotion = ask(pages.address, place, cookie=pages.cookie, **HTML)
    assert "acc at least 0.75" in promotion.text and "at_least" not in promotion.text
    back = pages.send("roll-back", alias="course_rec#prod", reason="it swears")
    assert (back.status, "tick &#34;An emergency" in back.text, "fusery " in back.text) == (409, True, False)
    moved = pages.send("set-alias", alias="course_rec#prod", adapter=newest, reason="x")
    assert (moved.status, "Promote" in moved.text, "fusery promote" in moved.text) == (409, True, False)
    forced = pages.send("roll-back", alias="course_rec#prod", reason="it swears", emergency="yes")
    assert forced.status in (200, 303), forced.text[-900:]


def test_a_form_of_another_page_does_nothing(pages: Pages) -> None:
    adapter = pages.registry.adapters.list(task="course_rec", limit=1)[0].name
    fields = {"adapter": adapter, "reason": "for no reason"}
    token = pages.form_token("/acts/yank")
    before = pages.registry.upkeep.log(limit=1)
    tries = [
        ({}, {}),
        ({"form_token": ""}, {}),
        ({"form_token": "0" * 64}, {}),
        ({"form_token": "ü"}, {}),
        ({"form_token": token}, {"origin": "http://evil.example"}),
        ({"form_token": token}, {"origin": "null"}),
        ({"form_token": token}, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}),
        ({"form_token": token}, {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"}),
        ({"form_token": token}, {"host": "evil.example"}),
    ]
    for more, headers in tries:
        refused = post_form(pages.address, "/acts/yank", {**fields, **more}, cookie=pages.cookie, **headers)
        assert refused.status == 403, (more, headers)
    kinds = ["text/plain", "multipart/form-data; boundary=x", "application/json"]
    for kind in kinds:
        body = f"form_token={token}&adapter={adapter}&reason=x"
        refused = ask(
            pages.address, "/acts/yank", method="POST", body=body, cookie=pages.cookie, content_type=kind
        )
        assert refused.status == 400, kind
    assert pages.registry.upkeep.log(limit=1) == before


def test_a_promotion_shows_what_holds_before_and_after(pages: Pages) -> None:
    registry = pages.registry
    held = registry.aliases.show("course_rec#prod").adapter
    newest = registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    adapter = ask(pages.address, f"/adapters/{newest}", cookie=pages.cookie, **HTML)
    assert f"/acts/promote?adapter={newest}" in adapter.text
    choice = ask(pages.address, f"/acts/promote?adapter={newest}", cookie=pages.cookie, **HTML)
    assert f"alias={quote('course_rec#prod', safe='')}" in choice.text
    place = f"/acts/promote?adapter={newest}&alias=course_rec%23prod"
    before = ask(pages.address, place, cookie=pages.cookie, **HTML)
    outcomes = registry.aliases.promote(newest, "prod", dry_run=True)
    assert before.status == 200
    for each in outcomes.rules:
        assert f'<th scope="row">{each.rule}</th>' in before.text, each
        assert each.state in before.text
    refused = pages.send("promote", adapter=newest, alias="prod", reason="")
    assert (refused.status, "Reason is missing" in refused.text) == (400, True)
    assert pages.send("promote", adapter=newest, alias="prod", reason="x\x00y").status == 400
    borne = {"authorization": f"Bearer {pages.door.key}"}
    body = {"adapter": newest, "alias": "course_rec#prod", "reason": "a program"}
    program = post_json(pages.address, "/api/v1/acts/promote", body, **borne)
    assert (program.status, program.json["moved"]) == (
        (200, True) if outcomes.verdict == "passed" else (409, False)
    )
    sent = pages.send("promote", adapter=newest, alias="course_rec#prod", reason="it is the <b>newest</b>")
    assert sent.status == (200 if outcomes.verdict == "passed" else 409)
    assert "What" in sent.text and "<b>newest" not in sent.text
    last = registry.upkeep.log(limit=1)[0]
    assert (last.actor, last.action) == (
        "bea",
        "alias.moved" if outcomes.verdict == "passed" else "alias.refused",
    )
    assert (registry.aliases.show("course_rec#prod").adapter == held) is (outcomes.verdict != "passed")


def test_each_act_is_done_under_the_name_and_leads_to_its_page(pages: Pages) -> None:
    registry = pages.registry
    newest = registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    registry.deployments.record(newest, "https://edge.example/1")
    steps = [
        (
            "approve",
            {"adapter": newest, "alias": "prod", "note": "read\r\nit"},
            "adapter.approved",
            f"/adapters/{newest}",
        ),
        (
            "withdraw-approval",
            {"adapter": newest, "alias": "prod"},
            "adapter.unapproved",
            f"/adapters/{newest}",
        ),
        (
            "set-alias",
            {"adapter": newest, "alias": "canary", "reason": "try"},
            "alias.moved",
            "/aliases/course_rec/canary",
        ),
        (
            "set-alias",
            {"adapter": "course_rec@1", "alias": "course_rec#canary", "reason": "try"},
            "alias.moved",
            "/aliases/course_rec/canary",
        ),
        (
            "roll-back",
            {"alias": "course_rec#canary", "reason": "no"},
            "alias.moved",
            "/aliases/course_rec/canary",
        ),
        (
            "yank",
            {"adapter": newest, "reason": "it was trained on the test set"},
            "adapter.yanked",
            f"/adapters/{newest}",
        ),
        ("lift", {"adapter": newest, "reason": "it was not"}, "adapter.unyanked", f"/adapters/{newest}"),
        ("note", {"adapter": newest, "note": "for people"}, "adapter.amended", f"/adapters/{newest}"),
        ("note", {"adapter": newest, "note": ""}, "adapter.amended", f"/adapters/{newest}"),
        (
            "tags",
            {"adapter": newest, "tags": "team=nlp\r\nstage = beta"},
            "adapter.amended",
            f"/adapters/{newest}",
        ),
        ("tags", {"adapter": newest, "tags": "stage="}, "adapter.amended", f"/adapters/{newest}"),
        (
            "record-deployment",
            {"adapter": newest, "place": "vllm@gpu-1:8000", "note": ""},
            "deployment.recorded",
            "/places",
        ),
        (
            "end-deployment",
            {"place": "https://edge.example/1", "reason": "moved"},
            "deployment.ended",
            "/places",
        ),
        (
            "record-refusal",
            {"adapter": newest, "place": "vllm@gpu-1:8000", "reason": "it was withdrawn"},
            "deployment.refused",
            "/log",
        ),
    ]
    assert {name for name, *_ in steps} | {"promote"} == set(BY_NAME)
    for name, fields, action, then in steps:
        done = pages.send(name, **fields)
        assert (done.status, done.headers.get("location")) == (303, then), (name, done.text[-1500:])
        assert ask(pages.address, then, cookie=pages.cookie, **HTML).status == 200
        last = registry.upkeep.log(limit=1)[0]
        assert (last.actor, last.action) == ("bea", action), name
    shown = registry.adapters.show(newest)
    assert (shown.note, shown.tags["team"], "stage" in shown.tags) == (None, "nlp", False)
    assert registry.aliases.show("course_rec#canary").adapter == newest


def test_forms_begin_with_what_is_there(pages: Pages) -> None:
    newest = pages.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    pages.registry.adapters.amend(newest, note="for <people>\nto read", tags={"team": "nlp", "stage": "beta"})
    known = pages.registry.adapters.show(newest)

    def written(path: str, name: str) -> str:
        tree = html_tree.parse(ask(pages.address, path, cookie=pages.cookie, **HTML).text)
        [area] = [each for each in tree.all("textarea") if each.attributes["name"] == name]
        return str(area.text).strip()

    assert written(f"/acts/note?adapter={newest}", "note") == "for <people>\nto read"
    there = dict(line.split("=", 1) for line in written(f"/acts/tags?adapter={newest}", "tags").split("\n"))
    assert there == known.tags
    assert written(f"/acts/note?adapter={newest}&note=new", "note") == "new"


def test_what_is_wrong_keeps_what_was_written(pages: Pages) -> None:
    newest = pages.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    before = pages.registry.upkeep.log(limit=1)
    written = 'line one\r\n<script>alert("1")</script> \u202e'
    wrong = pages.send("tags", adapter=newest, tags="no tag", reason=written)
    assert wrong.status == 400 and "no tag" in wrong.text
    assert "<script>" not in wrong.text
    [area] = [
        each for each in html_tree.parse(wrong.text).all("textarea") if each.attributes["name"] == "reason"
    ]
    assert area.text.strip().replace("\r\n", "\n") == written.replace("\r\n", "\n").strip()
    for act, fields, status in [
        ("approve", {"adapter": newest, "alias": "prdo"}, 400),
        ("yank", {"adapter": "nope@1", "reason": "x"}, 404),
        ("yank", {"adapter": "", "reason": "x"}, 400),
        ("set-alias", {"adapter": newest, "alias": "prod", "reason": "x"}, 409),
        ("set-alias", {"adapter": newest, "alias": "mail#prod", "reason": "x"}, 400),
        ("roll-back", {"alias": "course_rec#nope", "reason": "x"}, 404),
        ("roll-back", {"alias": "no alias at all", "reason": "x"}, 400),
        ("end-deployment", {"place": "nowhere", "reason": "x"}, 404),
        ("record-deployment", {"adapter": newest, "place": " ", "note": ""}, 400),
        ("record-deployment", {"adapter": "nope@1", "place": "here", "note": ""}, 404),
        ("promote", {"adapter": newest, "alias": "../..", "reason": "x"}, 400),
    ]:
        answer = pages.send(act, **fields)
        assert answer.status == status, (act, fields, answer.status, answer.text[-900:])
        assert 'role="alert"' in answer.text
    assert pages.registry.upkeep.log(limit=1) == before


def test_programs_do_the_same_with_the_key(pages: Pages) -> None:
    newest = pages.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    borne = {"authorization": f"Bearer {pages.door.key}"}
    body = {"adapter": newest, "alias": "canary", "reason": "a program says so"}
    done = post_json(pages.address, "/api/v1/acts/set-alias", body, **borne)
    assert done.status == 200, done.text
    assert done.json["alias"] == "course_rec#canary" and done.json["moved"] is True
    last = pages.registry.upkeep.log(limit=1)[0]
    assert (last.actor, json.loads(done.text)["to"]) == ("bea", newest)
    # A page of another site can have a browser send a cookie, and no header of its own.
    assert post_json(pages.address, "/api/v1/acts/set-alias", body, cookie=pages.cookie).status == 403
    for text in ("\x00", "a\x00b", " ", "\ud800"):
        refused = post_json(pages.address, "/api/v1/acts/set-alias", {**body, "reason": text}, **borne)
        assert refused.status == 400, text
    nothing = ask(pages.address, "/api/v1/acts/set-alias", method="POST", body=json.dumps(body), **borne)
    assert nothing.status == 400 and "Content-Type: application/json" in nothing.json["error"]["hint"]
    for wrong in ({}, {**body, "more": 1}, {**body, "adapter": 3}, {**body, "reason": ""}, [], "x"):
        refused = post_json(pages.address, "/api/v1/acts/set-alias", wrong, **borne)
        assert refused.status == 400 and refused.json["error"]["message"], wrong
    assert post_json(pages.address, "/api/v1/acts/set-alias", body, authorization="Bearer x").status == 401
    assert post_json(pages.address, "/api/v1/acts/set-alias", body, authorization="Basic eA==").status == 401
    large = {**body, "reason": "x" * 70_000}
    assert post_json(pages.address, "/api/v1/acts/set-alias", large, **borne).status == 413
