from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import wait_until

from fusery.registry.bundles.serving import gate
from fusery.registry.bundles.serving.gate import MAX_BODY, Gate, Served, Server
from fusery.registry.server.templates.chat import ChatTemplates

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


class Upstream(BaseHTTPRequestHandler):
    """In the place of mlx-lm's handler: echoes the request, or fails as that does before the first token."""

    def __init__(self, generator: Any, *rest: Any, system_fingerprint: str) -> None:
        self.generator = generator
        self.fingerprint = system_fingerprint
        super().__init__(*rest)

    def _set_completion_headers(self, status_code: int = 200) -> None:
        self.send_response(status_code)
        self.send_header("Content-type", "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if body.get("prompt") == "fail":
                raise ValueError("what was wrong")
        except ValueError as error:
            self._set_completion_headers(404)
            self.end_headers()
            self.wfile.write(json.dumps({"error": str(error)}).encode())
            return
        self._set_completion_headers(200)
        self.end_headers()
        self.wfile.write(json.dumps({"got": body, "fingerprint": self.fingerprint}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Generator:
    """In the place of mlx-lm's ResponseGenerator: whether it lives, and whether the model is loaded."""

    def __init__(self) -> None:
        self.is_healthy = True
        self.model_provider = SimpleNamespace(model_key=("model", None, None))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    handler = type("Handler", (Gate, Upstream), {})
    server = Server("127.0.0.1", 0, handler, Served("course", "d" * 64, tmp_path, 2048, 320), ChatTemplates())
    server.generator = Generator()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(
    server: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, json.loads(text)


def test_models_lists_exactly_the_one(server: Server) -> None:
    status, document = ask(server, "GET", "/v1/models")
    assert status == 200
    assert document["object"] == "list"
    (entry,) = document["data"]
    assert (entry["id"], entry["object"]) == ("course", "model")
    status, alone = ask(server, "GET", "/v1/models/course")
    assert (status, alone["id"]) == (200, "course")
    assert ask(server, "GET", "/v1/models/other")[0] == 404


def test_health_follows_the_model(server: Server) -> None:
    generator = server.generator
    assert ask(server, "GET", "/health") == (200, {"status": "ok"})
    generator.model_provider.model_key = None
    assert ask(server, "GET", "/health") == (503, {"status": "loading"})
    server.generator = None
    assert ask(server, "GET", "/health") == (503, {"status": "loading"})
    server.generator = generator


@pytest.mark.parametrize("model", [None, "course", "default_model"])
def test_a_request_is_rebuilt(server: Server, model: str | None) -> None:
    body = HELLO | {"model": model, "user": "ann", "temperature": 1}
    status, document = ask(server, "POST", CHAT, body)
    assert status == 200
    assert document["got"] == HELLO | {"model": "course", "temperature": 1.0}
    assert document["fingerprint"] == "fusery-" + "d" * 16


REFUSED = {
    "another model": (HELLO | {"model": "org/other"}, 404, "model"),
    "a folder as model": (HELLO | {"model": "/etc"}, 404, "model"),
    "a list as model": (HELLO | {"model": ["course"]}, 404, "model"),
    "an adapter": (HELLO | {"model": "course", "adapters": "/tmp/x"}, 400, "adapters"),
    "an empty adapter": (HELLO | {"adapters": ""}, 400, "adapters"),
    "an adapter in the singular": (HELLO | {"adapter": "x"}, 400, "adapter"),
    "a draft model": (HELLO | {"draft_model": "org/other"}, 400, "draft_model"),
    "no messages": ({}, 400, "messages"),
    "a wrong field": (HELLO | {"top_k": 10**6}, 400, "top_k"),
    "nested tools": (HELLO | {"tools": [{"a": 1}, 2]}, 400, "tools"),
}


@pytest.mark.parametrize(("body", "status", "param"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(server: Server, body: Any, status: int, param: str) -> None:
    found, document = ask(server, "POST", CHAT, body)
    assert (found, document["error"]["param"]) == (status, param)
    assert document["error"]["type"] == "invalid_request_error"
    assert document["error"]["message"]


def test_another_model_is_refused_as_openai_does(server: Server) -> None:
    _, document = ask(server, "POST", CHAT, HELLO | {"model": "org/other"})
    assert document["error"]["code"] == "model_not_found"
    assert document["error"]["message"] == "the model 'org/other' does not exist; this server has 'course'"


BROKEN = {
    "not JSON": (b"{", 400),
    "not UTF-8": (b'{"prompt": "\xff"}', 400),
    "a list": (b"[]", 400),
    "a number of 5000 digits": (b'{"seed": ' + b"1" * 5000 + b"}", 400),
    "deep nesting": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "deep nesting in tools": (b'{"prompt": "a", "tools": [{"a": ' + b"[" * 900 + b"]" * 900 + b"}]}", None),
    "nothing": (b"", 400),
    "half a character": (b'{"prompt": "\\ud800"}', 400),
    "half a character in a list": (b'{"prompt": "a", "stop": ["\\udc00\\ud800"]}', 400),
    "half a character in a name": (b'{"prompt": "a", "logit_bias": {"\\ud800": 1}}', 400),
    "half a character in what is left out": (b'{"prompt": "a", "x": [{"y": "\\ud800"}]}', 400),
    "a character of two halves": (b'{"prompt": "\\ud83d\\ude80"}', 200),
}


@pytest.mark.parametrize(("data", "status"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_bodies_get_an_answer(server: Server, data: bytes, status: int | None) -> None:
    found, _ = ask(server, "POST", "/v1/completions", data)
    assert found == status if status else found in (200, 400)


@pytest.mark.parametrize(
    ("length", "status"),
    [("", 411), ("-1", 411), ("1_0", 411), ("²", 411), (str(MAX_BODY + 1), 413), ("9" * 5000, 413)],
)
def test_lengths_are_checked_before_anything_is_read(server: Server, length: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    if length:
        connection.putheader("Content-Length", length.encode())
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


HEADS = {
    "another path": ("/v1/embeddings", "Host: localhost\r\nContent-Type: application/json", 404),
    "another host": (CHAT, "Host: evil.example\r\nContent-Type: application/json", 403),
    "another page": (CHAT, "Host: a.localhost\r\nOrigin: http://x\r\nContent-Type: application/json", 403),
    "a form": (CHAT, "Host: localhost\r\nContent-Type: text/plain", 415),
}


@pytest.mark.parametrize("what", HEADS)
@pytest.mark.parametrize("sent", [b"", b" " * MAX_BODY], ids=["no body", "a whole body"])
def test_a_body_is_not_waited_for_to_be_refused_by_its_head(server: Server, what: str, sent: bytes) -> None:
    path, head, status = HEADS[what]
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {MAX_BODY}\r\n\r\n".encode())
        client.sendall(sent)  # of which nothing is kept
        assert int(client.recv(4096).split()[1]) == status


def test_bodies_have_room_together(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODIES_BYTES", 1000)
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 990\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(head)
        wait_until(lambda: server._bytes == 990)
        status, document = ask(server, "POST", CHAT, HELLO)
        assert (status, document["error"]["code"]) == (429, "rate_limit_exceeded")
    wait_until(lambda: server._bytes == 0)
    assert ask(server, "POST", CHAT, HELLO)[0] == 200
    assert server._bytes == 0


@pytest.mark.parametrize("path", ["/", "/v1/embeddings", "/v1/chat/completions/", "/v1/models/../../etc"])
def test_other_paths_are_unknown(server: Server, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404
    assert ask(server, "POST", path, HELLO)[0] == 404


def test_mlx_lm_s_404_means_bad_request_or_not_available(server: Server) -> None:
    status, document = ask(server, "POST", "/v1/completions", {"prompt": "fail"})
    assert (status, document["error"]["message"]) == (400, "what was wrong")
    server.generator.model_provider.model_key = None
    assert ask(server, "POST", "/v1/completions", {"prompt": "fail"})[0] == 503


def test_the_server_ends_when_generation_has(tmp_path: Path) -> None:
    server = Server("127.0.0.1", 0, Gate, Served("course", "d" * 64, tmp_path, 2048, 320), ChatTemplates())
    server.generator = Generator()
    server.service_actions()
    server.generator.is_healthy = False
    with pytest.raises(RuntimeError, match="could not be loaded or text generation died"):
        server.serve_forever(poll_interval=0.01)
    server.server_close()


def test_drain_waits_for_what_is_being_answered(server: Server) -> None:
    assert server.drain(0)
    with server.counted():
        assert not server.drain(0.01)
    assert server.drain(0)


def write_bundle(folder: Path, config: Any, record: Any) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "fusery.json").write_text(json.dumps(record))
    return folder


RECORD = {"name": "course", "digest": "d" * 64}


@pytest.mark.parametrize(
    ("config", "context", "vocabulary"),
    [
        ({"max_position_embeddings": 2048, "vocab_size": 320}, 2048, 320),
        ({"text_config": {"max_position_embeddings": 64, "vocab_size": 5}, "vocab_size": 9}, 64, 5),
        ({}, 1 << 20, 1),
    ],
)
def test_served_is_read_from_the_bundle(tmp_path: Path, config: Any, context: int, vocabulary: int) -> None:
    served = Served.read(write_bundle(tmp_path, config, RECORD))
    assert served == Served("course", "d" * 64, tmp_path / "model", context, vocabulary)


@pytest.mark.parametrize(
    ("config", "record"),
    [([], RECORD), ({"vocab_size": "x"}, RECORD), ({"vocab_size": [1]}, RECORD), ({}, {}), ({}, [])],
)
def test_a_damaged_bundle_is_told(tmp_path: Path, config: Any, record: Any) -> None:
    with pytest.raises(ValueError, match=r"damaged|invalid literal"):
        Served.read(write_bundle(tmp_path, config, record))


PAGES: dict[str, tuple[dict[str, str], int]] = {
    "a form": ({"Content-Type": "text/plain"}, 415),
    "a type of its own": ({"Content-Type": "application/jsonx"}, 415),
    "no type": ({"Content-Type": ""}, 415),
    "another page": ({"Origin": "http://evil.example"}, 403),
    "a page without origin": ({"Origin": "null"}, 403),
    "another port of this machine": ({"Origin": "http://127.0.0.1:1"}, 403),
    "a name that leads here": ({"Host": "evil.example"}, 403),
    "a name with an address in it": ({"Host": "127.0.0.1.evil.example"}, 403),
    "a name before an address": ({"Host": "evil.example@127.0.0.1"}, 403),
    "an address before a path": ({"Host": "127.0.0.1/evil"}, 403),
    "a port that is none": ({"Host": "127.0.0.1:x"}, 403),
    "an address with a zone": ({"Host": "[::1%25x]"}, 403),
    "its own page": ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
    "a page that may": ({"Origin": "https://chat.example"}, 200),
    "a name that may": ({"Host": "Box.internal:80"}, 200),
    "an address": ({"Host": "[::1]:80"}, 200),
    "JSON in some encoding": ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
}


@pytest.mark.parametrize("what", PAGES)
def test_what_a_web_page_may(server: Server, what: str) -> None:
    headers, status = PAGES[what]
    server.hosts, server.origins = frozenset({"box.internal"}), frozenset({"https://chat.example"})
    assert ask(server, "POST", CHAT, HELLO, headers)[0] == status
    if status == 403:
        assert ask(server, "GET", "/v1/models", headers=headers)[0] == 403
        assert ask(server, "GET", "/health", headers=headers)[0] == 200


def test_whoever_says_so_lets_everybody_in(server: Server) -> None:
    server.hosts, server.origins = frozenset({"*"}), frozenset({"*"})
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert ask(server, "POST", CHAT, HELLO, headers)[0] == 200


def closed(client: socket.socket) -> bool:
    client.settimeout(60)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/c",
        b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_who_sends_half_a_request_is_hung_up_on(
    server: Server, sent: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(sent)
        assert closed(client)
    assert ask(server, "POST", CHAT, HELLO)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_many_who_send_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MOST_WAITING", 20)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=60))
            for _ in range(60)
        ]
        assert ask(server, "POST", CHAT, HELLO)[0] == 200
        assert all(closed(client) for client in clients[:40])


def test_who_goes_in_the_middle_of_a_request(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
            client.sendall(head)
            client.shutdown(socket.SHUT_WR)
            assert closed(client)
    assert "Traceback" not in capfd.readouterr().err
