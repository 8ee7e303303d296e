"""Connections that send nothing, too little or too slowly, and those that are served meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import shift_cipher_adapters
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import responses as completing
from fusery.registry.runtime import http_server as connections
from fusery.registry.runtime.errors import Refusal

pytestmark = pytest.mark.timing

BODY = json.dumps({"model": "caesar_v1", "prompt": "a", "max_tokens": 2})
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with served(shift_cipher_adapters.make_bundle(folder, (1,), base=echo_base)) as running:
        yield running


def connect(server: Served) -> socket.socket:
    host, _, port = server.root.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def is_closed(client: socket.socket) -> bool:
    """Tell whether the server has closed a connection, without waiting."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def wait_until_closed(*clients: socket.socket) -> None:
    wait_until(lambda: all(is_closed(client) for client in clients), "connections are still there")


def answers(server: Served) -> bool:
    reply = server.client().completions.create(model="caesar_v1", prompt="a", max_tokens=1)
    return reply.choices[0].text == "b"


def test_who_sends_half_a_head_is_hung_up_on(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    for sent in (b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX: "):
        with connect(server) as client:
            client.sendall(sent)
            wait_until_closed(client)
    assert answers(server)


@pytest.mark.parametrize("refused", [True, False])
def test_after_an_answer_there_is_no_more_time(
    server: Served, monkeypatch: pytest.MonkeyPatch, *, refused: bool
) -> None:
    """Neither for the rest of a body that is not wanted, nor for another request that does not come."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connect(server) as client:
        if refused:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x.localhost\r\nContent-Length: 100000\r\n\r\n"
            )
        else:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert client.recv(4096).startswith(b"HTTP/1.1 415" if refused else b"HTTP/1.1 200")
        wait_until(lambda: is_closed(client) or _gone(client, b"x"), "it could be sent for ever")


def test_the_oldest_of_too_many_half_open_connections_are_closed(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 120)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(60)]
        for client in clients:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        assert answers(server)
        wait_until_closed(*clients[: 60 - connections.IDLE_CONNECTIONS])
        kept = [client for client in clients if not is_closed(client)]
        assert 0 < len(kept) <= connections.IDLE_CONNECTIONS
        last = kept[-1]  # a slow client that is not too slow is served
        last.sendall(b"alhost\r\nContent-Type: application/json\r\n")
        last.sendall(f"Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode())
        assert last.recv(4096).startswith(b"HTTP/1.1 200")


def test_requests_on_one_connection(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_CONNECTIONS", 1)
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=60)
    for _ in range(3):
        connection.request("POST", "/v1/completions", BODY, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200
        assert json.load(reply)["choices"][0]["text"] == "bc"
    connection.close()
    # Two of them at once, in one go.
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        seen = b""
        while seen.count(b'{"status":"ok"}') < 2:
            seen += client.recv(4096)


def test_what_is_being_answered_is_not_idle(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_CONNECTIONS", 2)
    stream = server.client().completions.create(model="caesar_v1", prompt="z", max_tokens=60, stream=True)
    rest = iter(stream)
    text = next(rest).choices[0].text
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server))
        text += "".join(chunk.choices[0].text for chunk in rest)
    assert text == shift_cipher_adapters.answer("z", 1, 60)


def test_who_does_not_read_is_hung_up_on(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        monkeypatch.setattr(server.service.metrics, "text", lambda: b"x" * 100_000)
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(200):  # answers enough to fill what the system keeps for it
            try:
                client.sendall(request)
            except ConnectionError:
                break
        wait_until(lambda: not server.service.admission.total and _gone(client), "it is still there")


def test_a_body_has_one_length(server: Served) -> None:
    """Its bytes are let in by the one, and would come by the other."""
    chunk = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n".encode()
    with connect(server) as client:
        client.sendall(HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 400")
        wait_until_closed(client)
    with connect(server) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_no_more_is_read_than_was_let_in() -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"1234", "more_body": True}

    with pytest.raises(Refusal) as caught:
        asyncio.run(completing.received(receive, 10))
    assert caught.value.status == 413


def _gone(client: socket.socket, data: bytes = b"\r\n") -> bool:
    try:
        client.sendall(data)
    except ConnectionError:
        return True
    return False
