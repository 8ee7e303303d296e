"""Promoting on a server: what it answers is data, and what it advises is read from here."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fault_proxy import Fault, fault_proxy, times
from page_server import pages_of

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, ServerRefusedError
from fusery.registry.exchange import http_calls
from fusery.registry.exchange.http_calls import turned
from fusery.web.doors import Proxies, TeamDoor

pytestmark = pytest.mark.timing
PROMOTION = {
    "alias": "t#prod", "adapter": "x", "holder": None, "verdict": "failed", "moved": False, "confirmed": False,
    "guarded": True, "dry_run": False, "reason": "r", "withdrawals": [],
    "rules": [{"rule": "approvals", "wanted": 1, "state": "failed", "why": "w", "hint": "fusery audit, there"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("fusery fuse course_rec@1", "fusery fuse course_rec@1, there"),
        ("see what it is: fusery show x; or fusery list", "see what it is: fusery show x, there; or fusery list, there"),
        ("nothing was recorded; fusery audit", "nothing was recorded; fusery audit, there"),
        ("ask an admin", "ask an admin"),
    ],
)  # fmt: skip
def test_what_is_there_for_the_one_is_here_for_the_other(here: str, there: str) -> None:
    assert (turned(here), turned(there)) == (there, here)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (403, b"<html>Forbidden</html>"), (200, b"[]"), (200, b"\xff"), (200, b"{"), (409, b""), (409, b"{}"), (409, b"[" * 100_000),
        (409, json.dumps({**PROMOTION, "verdict": "splendid"}).encode()),
        (200, json.dumps({**PROMOTION, "moved": "yes"}).encode()),
        (200, json.dumps({**PROMOTION, "rules": [1]}).encode()),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_one_sentence(
    module_registry: Registry, status: int, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerRefusedError):
        promoted(module_registry, status, answer, monkeypatch)


def test_a_refusal_has_the_form_of_a_promotion(
    module_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = promoted(module_registry, 409, json.dumps(PROMOTION).encode(), monkeypatch)
    assert (done.verdict, done.exit_code, done.rules[0].hint) == ("failed", 1, "fusery audit")


def promoted(registry: Registry, status: int, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setenv("FUSERY_TOKEN", "fusery_" + "a" * 43)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            return registry.exchange.promote("t@1", "prod", url, reason="r")
        finally:
            server.shutdown()


def test_one_whose_answer_is_lost_is_asked_for_again(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_calls, "LONGEST_WAIT", 0.1)
    monkeypatch.setenv("FUSERY_TOKEN", stocked.tokens.create("ann", role="approver").secret)
    with pages_of(stocked, TeamDoor(stocked, Proxies())) as url, fault_proxy(url) as proxy:
        proxy.rule = times(1, "POST", "/acts/promote", Fault.LOST)
        done = stocked.exchange.promote("course_rec@1", "prod", proxy.endpoint, reason="launch")
        assert (done.verdict, done.moved) == ("passed", False), "it held the adapter already"
        assert len(stocked.aliases.history("course_rec#prod")) == 1
        with pytest.raises(BadInputError):
            stocked.exchange.promote("course_rec@1", "prod", proxy.endpoint, reason=" ")
