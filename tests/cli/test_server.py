"""`fusery server` as a process: tokens from the command line are what it lets in, over TLS if it has a certificate."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import printed_documents
import pytest
from certificates import certificate
from page_server import ask
from programs import running

from .conftest import Fusery, require_refusals


@pytest.mark.slow
@pytest.mark.timing
def test_a_token_of_the_command_line_is_let_in_until_it_is_revoked(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("admin", "init").code == 0
    secret = json.loads(fusery("admin", "token", "create", "ci", "--role", "reader", "--json").out)["secret"]
    with running(tmp_path / "home", "server", "--port", "0", "--json") as (process, printed):
        found = json.loads(printed)
        printed_documents.require("server", found)
        address, borne = found["url"], {"authorization": f"Bearer {secret}"}
        assert ask(address, "/api/v1/adapters/tasks").status == 401
        assert ask(address, "/api/v1/adapters/tasks", **borne).json == []
        assert fusery("admin", "token", "revoke", "ci").code == 0
        assert ask(address, "/api/v1/adapters/tasks", **borne).status == 401
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert secret not in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timing
def test_over_tls(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("admin", "init").code == 0
    secret = json.loads(fusery("admin", "token", "create", "ci", "--role", "reader", "--json").out)["secret"]
    public, private = certificate(tmp_path)
    words = ["server", "--port", "0", "--json", "--certificate", str(public), "--key", str(private)]
    with running(tmp_path / "home", *words) as (_, printed):
        url = urlsplit(json.loads(printed)["url"])
        assert url.scheme == "https"
        context = ssl.create_default_context(cafile=str(public))
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=60)
        connection.request("GET", "/api/v1/adapters/tasks", headers={"Authorization": f"Bearer {secret}"})
        assert json.load(connection.getresponse()) == []
        form = f"token={secret}"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/sign-in", form, kind)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 303 and "; Secure" in (answer.getheader("set-cookie") or "")
        connection.close()


def test_refusals(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("admin", "init").code == 0
    public, _ = certificate(tmp_path)
    (tmp_path / "none.pem").write_text("nothing")
    cases = (
        ("--host 0.0.0.0", "fusery admin token create"),
        ("--host 192.0.2.7 --insecure-http", "fusery admin token create"),
        ("--proxy somewhere", "invalid --proxy"),
        (f"--certificate {public}", "go together"),
        (f"--key {public}", "go together"),
        ("--certificate none.pem --key none.pem", "none.pem"),
    )
    require_refusals(fusery, *((f"server --port 0 {words}", named) for words, named in cases))


def test_what_a_client_does_is_on_a_line_of_its_own(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve_team(*_: object, ready: Callable[[str], None], reporter: object) -> int:
        ready("http://127.0.0.1:8430")
        return 0

    monkeypatch.setattr("fusery.web.running.serve_team", serve_team)
    assert fusery("server").out.splitlines() == [
        "The registry is at http://127.0.0.1:8430; Ctrl-C ends it.",
        "On a client: fusery login http://127.0.0.1:8430",
    ]
