"""One attempt: what a receiver is reached by, TLS, and that nothing leads elsewhere."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import certificate
from programs import free_port
from webhook_receiver import OK, Receiver

from fusery.registry.webhooks import sending
from fusery.registry.webhooks.sending import DeliveryAnswer, parse_url, post

pytestmark = pytest.mark.timing

BODY = b'{"data": {"seq": 1}}'


def attempt(url: str, *, seconds: float = 60.0) -> DeliveryAnswer:
    return post(parse_url(url), {"Webhook-Id": "msg_1"}, BODY, private=True, seconds=seconds)


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, connected = [], []

    def look(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def connect(address: tuple[str, int], timeout: float, **_: object) -> socket.socket:
        connected.append(address[0])
        made = socket.socket(socket.AF_INET)
        made.settimeout(timeout)
        made.connect(address)
        return made

    monkeypatch.setattr(sending.socket, "getaddrinfo", look)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert attempt(f"http://hooks.example.org:{receiver.port}/hook") == DeliveryAnswer()
    assert (asked, connected) == (["hooks.example.org"], ["127.0.0.1"])
    assert receiver.requests[0].headers["host"] == f"hooks.example.org:{receiver.port}"


def test_another_address_is_tried_where_one_does_not_take_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ["127.0.0.2", "127.0.0.1"]  # the receiver listens at the second
    monkeypatch.setattr("fusery.registry.webhooks.sending.addresses_of", lambda *_, **__: found)
    assert attempt(receiver.url) == DeliveryAnswer()


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert attempt(receiver.url) == DeliveryAnswer()


def test_a_receiver_that_does_not_read_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        target = parse_url(f"http://127.0.0.1:{port}/")
        answer = post(target, {}, b"x" * (64 << 20), private=True, seconds=0.5)
        assert answer.error == "no answer within 0.5 s"
        handshake = attempt(f"https://localhost:{port}/", seconds=0.5)
        assert handshake.error == "no answer within 0.5 s"


def test_which_answers_are_success() -> None:
    for status in (200, 201, 204, 299):
        with answering(f"HTTP/1.1 {status} Fine\r\n\r\n".encode()) as url:
            assert attempt(url) == DeliveryAnswer()
    for status in (300, 304, 400, 401, 429, 503, 999):
        with answering(f"HTTP/1.1 {status} No\r\n\r\n".encode()) as url:
            assert str(status) in attempt(url).error
    with answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n") as url:
        assert attempt(url) == DeliveryAnswer()


@contextmanager
def answering(data: bytes, context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                line = context.wrap_socket(connection, server_side=True) if context else connection
                with line:
                    read = b""
                    while not read.endswith(BODY) and read[:1] != b"\x16" and (more := line.recv(65536)):
                        read += more
                    line.sendall(data)
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{server.getsockname()[1]}/hook"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_a_certificate_has_to_be_of_the_host_that_the_url_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    with answering(OK, context) as url:
        assert attempt(url).error.startswith("its certificate is not good: ")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert attempt(url) == DeliveryAnswer()
        # The same machine by a name, which the certificate does not have.
        monkeypatch.setattr("fusery.registry.webhooks.sending.addresses_of", lambda *_, **__: ["127.0.0.1"])
        assert "certificate is not good" in attempt(url.replace("127.0.0.1", "hooks.example.org")).error


def test_who_speaks_no_tls_is_told_so() -> None:
    with answering(OK) as url:
        assert attempt(url.replace("http:", "https:")).error == "it does not speak TLS"


def test_errors_repeat_nothing_of_the_url() -> None:
    port = free_port()
    assert "s3cr3t" not in attempt(f"http://127.0.0.1:{port}/s3cr3t").error


def test_bodies_arrive_byte_for_byte(receiver: Receiver) -> None:
    bodies = [b'{"data":{"seq":%d},"text":"%s"}' % (number, b"x" * (number << 18)) for number in range(5)]
    target, sent = parse_url(receiver.url), {"Webhook-Id": "msg_1", "Webhook-Signature": "v1,c2lnbmF0dXJl"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda body: post(target, sent, body, private=True, seconds=60), bodies))
    assert answers == [DeliveryAnswer()] * len(bodies)
    assert sorted(request.body for request in receiver.requests) == bodies
    for request in receiver.requests:
        assert sent.items() <= {name.title(): value for name, value in request.headers.items()}.items()
