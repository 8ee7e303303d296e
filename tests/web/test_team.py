"""Who is who: tokens, roles, proxies; every route by every role, as the table of routes says."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import pytest
from page_server import Answer, ask, pages_of, post_form, post_json
from starlette.requests import Request
from waiting import wait_until

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.records.tokens import ROLES, allows
from fusery.web import auth
from fusery.web.app import create_app
from fusery.web.auth import SESSIONS, LocalAuth, NotSignedInError, Proxies, Sessions, TokenAuth
from fusery.web.forms import BY_NAME, FORMS
from fusery.web.routes import API, Route
from fusery.web.running import WebOptions, serve_team

pytestmark = pytest.mark.timing

HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}
LOOPBACK = ip_network("127.0.0.0/8")


@dataclass(frozen=True)
class Team:
    registry: Registry
    address: str
    secrets: Mapping[str, str]

    def bearer(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secrets[name]}"}

    def cookie(self, name: str) -> dict[str, str]:
        return {"cookie": signed_in(self.address, self.secrets[name])}


def signed_in(address: str, secret: str, **headers: str) -> str:
    entered = post_form(address, "/sign-in", {"token": secret}, **headers)
    assert entered.status == 303, entered.text
    return entered.headers["set-cookie"].split("; ")[0]


@pytest.fixture
def team(own: Registry) -> Iterator[Team]:
    secrets = {f"the-{role}": own.tokens.create(f"the-{role}", role).secret for role in ROLES}
    secrets["revoked"] = own.tokens.create("revoked", "admin").secret
    own.tokens.revoke("revoked")
    with pages_of(own, TokenAuth(own, Proxies())) as address:
        yield Team(own, address, secrets)


def filled(path: str) -> str:
    values = {"task": "course_rec", "name": "prod", "reference:path": "course_rec@1", "name:path": "tiny"}
    for name, value in {**values, "key": "0" * 64, "digest": "0" * 64}.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, path
    return path


def asked(team: Team, route: Route, headers: Mapping[str, str]) -> Answer:
    path = filled(route.path)
    if route.method == "POST" and route.path.startswith(API):
        return post_json(team.address, path, {}, **headers)
    if route.method == "POST":
        return post_form(team.address, path, {}, **{**headers, **HTML})
    body = "these bytes have another digest" if route.method == "PUT" else None
    return ask(team.address, path, method=route.method, body=body, **{**JSON, **headers})


def table(registry: Registry) -> list[Route]:
    routes: list[Route] = create_app(registry, TokenAuth(registry, Proxies())).state.routes.made
    return routes


@pytest.mark.slow
def test_every_route_by_every_role(team: Team) -> None:
    routes = table(team.registry)
    assert len(routes) > 45
    app = create_app(team.registry, TokenAuth(team.registry, Proxies()))
    assert {(each.path, method) for each in app.routes for method in each.methods - {"HEAD"}} == {
        (route.path, route.method) for route in routes if route.method != "HEAD"
    }
    before = team.registry.upkeep.log(limit=1)
    for route in routes:
        allowed = [role for role in ROLES if route.role is None or allows(role, route.role)]
        refused = [role for role in ROLES if role not in allowed]
        for role in allowed[:1]:  # the least that is enough
            answer = asked(team, route, team.bearer(f"the-{role}"))
            if (route.path, route.method) == ("/sign-in", "POST"):
                assert answer.status == 401  # no token is in the form
                continue
            assert answer.status not in (401, 429), (route, role, answer.text[:300])
            # An act that is allowed and empty is refused for what is missing; a form without its token for that.
            if answer.status == 403:
                assert (route.method, route.path.startswith(API)) == ("POST", False), (route, role)
                assert "form" in answer.text
        for role in refused[-1:]:  # the most that is not
            answer = asked(team, route, team.bearer(f"the-{role}"))
            assert answer.status == 403, (route, role, answer.text[:300])
    assert team.registry.upkeep.log(limit=1) == before


STRANGERS: Mapping[str, Any] = {
    "no token": lambda team: {},
    "revoked": lambda team: team.bearer("revoked"),
    "unknown": lambda team: {"authorization": "Bearer fusery_" + "A" * 43},
    "basic": lambda team: {"authorization": "Basic YWRtaW46YWRtaW4="},
    "a token in place of a session": lambda team: {"cookie": f"fusery_token={team.secrets['the-admin']}"},
    "proxy that nobody trusts": lambda team: {"x-forwarded-user": "root", "x-forwarded-for": "127.0.0.1"},
}


def test_nobody_else_gets_anything(team: Team) -> None:
    routes = table(team.registry)
    open_to_all = {route.path for route in routes if route.role is None}
    assert open_to_all == {"/sign-in", "/sign-out", "/style.css", f"{API}/openapi.json"}
    guarded = [route for route in routes if route.role is not None]
    for stranger, headers_of in STRANGERS.items():
        for route in guarded if stranger == "no token" else guarded[::8]:
            answer = asked(team, route, {**headers_of(team), **JSON})
            assert answer.status == 401, (stranger, route, answer.text[:300])
            assert answer.headers["www-authenticate"] == "Bearer"
            said = answer.text.lower()
            assert not [word for word in ("course_rec", "revoked", "expired") if word in said]


def test_a_revoked_token_ends_what_it_had_opened(team: Team) -> None:
    cookie = team.cookie("the-approver")
    assert ask(team.address, "/log", **cookie, **HTML).status == 200
    team.registry.tokens.revoke("the-approver")
    gone = ask(team.address, "/log?action=alias.moved", **cookie, **HTML)
    assert (gone.status, gone.headers["location"]) == (303, "/sign-in?then=/log%3Faction%3Dalias.moved")
    # Who has such a cookie can sign in anew.
    assert ask(team.address, "/sign-in", **cookie, **HTML).status == 200


def test_signing_in_and_out(team: Team) -> None:
    page = ask(team.address, "/", **HTML)
    assert (page.status, page.headers["location"]) == (303, "/sign-in?then=/")
    wrong = post_form(team.address, "/sign-in", {"token": "fusery_wrong", "then": "/log"})
    assert (wrong.status, "fusery_wrong" in wrong.text) == (401, False)
    fields = {"token": f" {team.secrets['the-publisher']} ", "then": "/log"}
    entered = post_form(team.address, "/sign-in", fields)
    assert (entered.status, entered.headers["location"]) == (303, "/log")
    cookie, *attributes = entered.headers["set-cookie"].split("; ")
    assert team.secrets["the-publisher"] not in cookie
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(attributes) and "Secure" not in attributes
    inside = ask(team.address, "/log", cookie=cookie, **HTML)
    assert (inside.status, "the-publisher (publisher)" in inside.text) == (200, True)
    assert post_form(team.address, "/sign-out", {}, cookie=cookie).status == 403
    left = post_form(team.address, "/sign-out", {"form_token": form_token(inside)}, cookie=cookie)
    assert (left.status, left.headers["location"]) == (303, "/sign-in")
    assert 'fusery_token=""' in left.headers["set-cookie"]
    assert ask(team.address, "/log", cookie=cookie, **HTML).status == 303, "the session has ended"
    assert ask(team.address, "/log", **team.cookie("the-publisher"), **HTML).status == 200


def test_signing_in_leads_nowhere_else(team: Team) -> None:
    for then in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:a", "\n/", "/\x00"):
        entered = post_form(team.address, "/sign-in", {"token": team.secrets["the-reader"], "then": then})
        assert (entered.status, entered.headers["location"]) == (303, "/"), then


def test_acts_are_recorded_under_the_name_of_the_token(team: Team) -> None:
    newest = team.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    body = {"reference": newest, "alias": "prod", "note": "read it"}
    done = post_json(team.address, f"{API}/aliases/approve", body, **team.bearer("the-approver"))
    assert (done.status, done.json["by"]) == (200, "the-approver")
    last = team.registry.upkeep.log(limit=1)[0]
    assert (last.actor, last.action) == ("the-approver", "adapter.approved")


def test_pages_offer_what_the_role_may(team: Team) -> None:
    newest = team.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    for role in ROLES:
        page = ask(team.address, f"/adapters/{newest}", **team.cookie(f"the-{role}"), **HTML).text
        for name in (
            "aliases/promote",
            "aliases/approve",
            "adapters/yank-all",
            "aliases/set",
            "adapters/amend",
        ):
            offered = f"/acts/{name}?" in page
            assert offered is allows(role, BY_NAME[name].role), (role, name)


def test_a_publisher_promotes_to_unguarded_aliases_only(team: Team) -> None:
    newest = team.registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    team.registry.aliases.set_rules("course_rec#kept", {"approvals": 1}, guarded=True)
    bearer = team.bearer("the-publisher")
    for alias, status, code in (("canary", 200, None), ("kept", 403, "role_not_enough")):
        body = {"reference": newest, "alias": alias, "dry_run": True}
        done = post_json(team.address, f"{API}/aliases/promote", body, **bearer)
        assert (done.status, done.json.get("error", {}).get("code")) == (status, code)


def test_no_secret_is_shown_or_logged(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    secret = team.secrets["the-admin"]
    cookie = team.cookie("the-admin")
    for path in ("/", "/log", "/acts/adapters/yank-all", "/sign-in", "/nothing"):
        page = ask(team.address, path, **cookie, **HTML)
        assert secret not in page.text and secret not in str(page.headers)
    post_form(team.address, "/sign-in", {"token": secret + "x", "then": "/"})
    ask(team.address, "/log", authorization=f"Bearer {secret}x")
    assert secret not in caplog.text
    assert secret not in str([event.to_dict() for event in team.registry.upkeep.log()])


def form_token(page: Answer) -> str:
    return page.text.partition('name="form_token" value="')[2].partition('"')[0]


def test_a_proxy_is_believed_by_its_address(own: Registry) -> None:
    proxies = Proxies(networks=[LOOPBACK], role_header="X-Role", secret="between us")
    named = {"x-forwarded-user": "carla", "x-fusery-proxy": "between us", **HTML}
    with pages_of(own, TokenAuth(own, proxies)) as address:
        page = ask(address, "/log", **named)
        assert (page.status, "carla (reader)" in page.text) == (200, True)
        assert ask(address, "/log", authorization="Basic Y2FybGE6eA==", **named).status == 200
        for header in ("Basic Y2FybGE6eA==", "Bearer fsy_unknown"):
            unproven = {**named, "x-fusery-proxy": "guessed"} if header[:5] == "Basic" else named
            assert ask(address, "/log", **{**unproven, "authorization": header, **JSON}).status == 401
        assert ask(address, "/acts/adapters/yank-all", **named).status == 403
        token = form_token(ask(address, "/acts/adapters/yank-all", x_role="approver", **named))
        assert len(token) == 64
        wrong = [{"x-fusery-proxy": "guessed"}, {"x-fusery-proxy": ""}, {"x-role": "root"}]
        for headers in (*wrong, {"x-forwarded-user": ""}, {"x-forwarded-user": "x" * 300}):
            assert ask(address, "/log", **{**named, **headers, **JSON}).status == 401, headers
        newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
        fields = {"form_token": token, "references": newest, "reason": "no"}
        done = post_form(address, "/acts/adapters/yank-all", fields, **{**named, "x-role": "approver"})
        assert done.status == 303
        assert own.upkeep.log(limit=1)[0].actor == "carla"
        # Another's form is not good for her.
        other = {**named, "x-forwarded-user": "dan", "x-role": "approver"}
        assert post_form(address, "/acts/adapters/unyank-all", fields, **other).status == 403
    elsewhere = Proxies(networks=[ip_network("10.0.0.0/8")])
    with pages_of(own, TokenAuth(own, elsewhere)) as address:
        said = {**named, "x-forwarded-for": "10.1.2.3", **JSON}
        assert ask(address, "/log", **said).status == 401


def test_who_asks_too_often_waits(own: Registry, caplog: pytest.LogCaptureFixture) -> None:
    secret = own.tokens.create("fast", "reader").secret
    with pages_of(own, TokenAuth(own, Proxies()), paced=True) as address:
        wrong = [ask(address, "/log", authorization="Bearer wrong", **JSON).status for _ in range(20)]
        assert wrong == [401] * 20
        wait_until(lambda: ask(address, "/log", authorization="Bearer wrong", **JSON).status == 429)
        # Who has a good token behind the same address is not kept out, nor who has a cookie that is good no more.
        stale = "fusery_token=fusery_" + "A" * 43
        for _ in range(40):
            assert ask(address, "/sign-in", cookie=stale, **HTML).status == 200
            assert ask(address, "/style.css", cookie=stale).status == 200
        assert post_form(address, "/sign-in", {"token": secret}, cookie=stale).status == 303
        assert ask(address, "/log", authorization=f"Bearer {secret}", **JSON).status == 200
    assert sum("refused a token" in each.message for each in caplog.records) >= 20
    assert secret not in caplog.text


def test_a_proxy_s_headers_are_one_each_and_only_those_that_were_named(own: Registry) -> None:
    """Nobody gets a role by a header that no proxy knows to remove, nor a second name by brackets."""
    named = {"x-forwarded-user": "bob", **JSON}
    with pages_of(own, TokenAuth(own, Proxies(networks=[LOOPBACK]))) as address:
        assert ask(address, "/log", **named).status == 200
        for header in ("-", "x-role", "x-forwarded-role"):
            assert ask(address, "/acts/adapters/yank-all", **{**named, header: "admin"}).status == 403, header
        for name in ("anna (a) (b)", "anna (x)", ")", "an\x07na", "   ", "\xff"):
            assert ask(address, "/log", **{**named, "x-forwarded-user": name}).status in (400, 401), name
        assert raw_status(address, "X-Forwarded-User: eve", "X-Forwarded-User: anna") == 401
        utf8 = ask(address, "/log", **{"x-forwarded-user": "Łukasz Zoë".encode().decode("latin-1"), **HTML})
        assert "Łukasz Zoë (reader)" in utf8.text and "Sign out" not in utf8.text
        # A cookie that a neighbour of this host has set makes nobody somebody else, and keeps nobody out.
        secret = own.tokens.create("eve", "admin").secret
        for cookie in ("fusery_token=zzz", signed_in(address, secret, **named)):
            page = ask(address, "/log", **{**named, **HTML, "cookie": cookie})
            assert (page.status, "bob (reader)" in page.text) == (200, True)


def raw_status(address: str, *headers: str) -> int:
    parts = urlsplit(address)
    sent = ("Host: localhost", "Accept: application/json", "Connection: close", *headers)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as connection:
        connection.sendall(("\r\n".join(("GET /log HTTP/1.1", *sent)) + "\r\n\r\n").encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_unsafe_settings_are_refused(own: Registry) -> None:
    def refused(**options: Any) -> None:
        with pytest.raises(BadInputError):
            serve_team(own, WebOptions(**options), ready=lambda *_: pytest.fail("it serves"))

    for proxy in ("0.0.0.0/0", "::/0", "proxy.example"):
        refused(proxies=[proxy])
    refused(host="0.0.0.0", port=0)  # nobody could sign in
    own.tokens.create("one", "admin")
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        refused(host=host, port=0)  # tokens would go as they are


def test_over_tls_the_cookie_is_this_host_s_alone(own: Registry) -> None:
    secret = own.tokens.create("t", "reader").secret
    secure = {"x-forwarded-proto": "https"}
    with pages_of(own, TokenAuth(own, Proxies(networks=[LOOPBACK]))) as address:
        entered = post_form(address, "/sign-in", {"token": secret}, **secure)
        cookie = entered.headers["set-cookie"].split("; ")[0]
        assert cookie.startswith("__Host-fusery_token=") and "Secure" in entered.headers["set-cookie"]
        assert ask(address, "/log", cookie=cookie, **secure, **JSON).status == 200
        assert ask(address, "/log", cookie=cookie.removeprefix("__Host-"), **secure, **JSON).status == 401


def test_each_act_says_which_role_it_needs() -> None:
    publisher = {f"aliases/{name}" for name in ("set", "promote")}
    publisher |= {"adapters/amend", "deployments/record", "deployments/end"}
    approver = {f"aliases/{name}" for name in ("approve", "withdraw-approval", "roll-back")}
    approver |= {"adapters/yank-all", "adapters/unyank-all"}
    assert {act.name for act in FORMS if act.role == "publisher"} == publisher
    assert {act.name for act in FORMS if act.role == "approver"} == approver
    assert len(FORMS) == len(publisher | approver)


def test_a_key_of_one_s_own_pages_opens_no_others() -> None:
    one, two = LocalAuth("a"), LocalAuth("a")
    assert one.key != two.key and one.cookie != two.cookie
    assert not one.opens(two.key) and not one.opens("")


def test_one_principal_has_one_share_of_requests(own: Registry) -> None:
    """A client without a valid token is counted by its address, whatever its header says."""
    secret = own.tokens.create("ann", "reader").secret
    door = TokenAuth(own, Proxies())

    def asker(authorization: str = "", cookie: str = "") -> str:
        headers = [(b"authorization", authorization.encode())] if authorization else []
        headers += [(b"cookie", cookie.encode())] if cookie else []
        scope = {
            "type": "http", "method": "GET", "path": "/", "query_string": b"", "scheme": "http",
            "server": ("localhost", 80), "client": ("192.0.2.7", 5), "headers": headers,
        }  # fmt: skip
        return door.client_key(Request(scope))

    anonymous = asker()
    made_up = {asker(f"Bearer fusery_{n:043d}") for n in range(5)} | {asker("Basic eA=="), asker("Bearer")}
    assert made_up == {anonymous}
    door.authenticate(secret)
    cookie = f"fusery_token={door.sessions.begin(secret)}"
    named = {asker(f"{scheme} {secret}") for scheme in ("Bearer", "bearer", "BEARER", "bearer  ")}
    assert named | {asker(cookie=cookie)} == {"name ann"} != {anonymous}
    assert asker(cookie="fusery_token=made-up") == anonymous
    own.tokens.revoke("ann")
    with pytest.raises(NotSignedInError):
        door.authenticate(secret)
    assert {asker(f"Bearer {secret}"), asker(cookie=cookie)} == {anonymous}, "a stolen token is not ann"


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    other = sessions.begin("another token")
    begun = [sessions.begin("a token") for _ in range(SESSIONS[1] + 1)]
    assert [sessions.token_of(each) for each in begun[:2]] == [None, "a token"]
    assert sessions.token_of(other) == "another token"
    monkeypatch.setattr(auth, "SESSIONS", (2, 20))
    begun = [sessions.begin(f"token {number}") for number in range(3)]
    assert [sessions.token_of(each) for each in (other, *begun)] == [None, None, "token 1", "token 2"]
