"""Where a webhook may go, whatever the spelling of an address; and one attempt: TLS, and that nothing leads elsewhere."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from certificates import certificate
from hypothesis import given
from hypothesis import strategies as st
from programs import free_port
from stub_server import raw_server
from webhook_receiver import OK, Receiver

from fusery.registry.errors import BadInputError
from fusery.registry.webhooks import sending
from fusery.registry.webhooks.sending import (
    DeliveryAnswer,
    UnreachableError,
    addresses_of,
    is_named_private,
    is_public,
    parse_url,
    post,
)

pytestmark = pytest.mark.timing


PRIVATE = [
    "192.0.0.192", "192.88.99.1", "168.63.129.16", "3fff::1",
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.2.3",
    "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001::1", "2001:db8::1", "100::1", "fec0::1", "5f00::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


def test_addresses_of_private_networks_and_of_the_public_internet() -> None:
    for texts, public in ((PRIVATE, False), (PUBLIC, True)):
        for text in texts:
            assert is_public(ipaddress.ip_address(text)) is public, text
            assert is_named_private(text) is not public, text


@given(st.ip_addresses(v=4))
def test_an_older_address_in_a_newer_one_counts_as_itself(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    translated = ipaddress.IPv6Address((0x64FF9B << 96) | int(address))
    assert is_public(mapped) == is_public(translated) == is_public(address)


def test_no_spelling_of_this_machine_is_reached_unless_that_is_allowed() -> None:
    for name in ("localhost", "localhost.", "a.localhost"):
        assert is_named_private(name)
    assert not is_named_private("notlocalhost.example")
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "::1", "0"):
        with pytest.raises(UnreachableError):
            addresses_of(host, 80, private=False, seconds=60)
    assert addresses_of("127.0.0.1", 80, private=True, seconds=60) == ["127.0.0.1"]


def answers(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    def look(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(sending.socket, "getaddrinfo", look)


def test_a_name_with_one_private_address_among_others_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(UnreachableError):
        addresses_of("hooks.example.org", 443, private=False, seconds=60)
    answers(monkeypatch, "8.8.8.8", "8.8.8.8", "1.1.1.1")
    assert addresses_of("hooks.example.org", 443, private=False, seconds=60) == ["8.8.8.8", "1.1.1.1"]


def test_a_resolver_that_hangs_or_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(sending.socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    with pytest.raises(UnreachableError):
        addresses_of("hooks.example.org", 443, private=False, seconds=0.05)
    over.set()

    unknown = Mock(side_effect=socket.gaierror(-2, "unknown"))
    monkeypatch.setattr(sending.socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError):
        addresses_of("hooks.example.org", 443, private=True, seconds=60)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org",
        "http://Hooks.example.org:8080/a/b?c=d",
        "https://[2606:4700::1111]/x",
        "https://hooks.example.org?design=1",
    ],
)
def test_spaces_around_a_url_are_left_out(url: str) -> None:
    assert parse_url(f" {url} ").geturl() == url


BAD_URLS = [
    "", "hooks.example.org", "ftp://hooks.example.org", "file:///etc/passwd", "https://", "https:///x", "https://a:0/",
    "https://a:99999/", "https://a:b/", "https://[::1", "https://ann@a/", "https://ann:pw@a/", "https://@a/",
    "https://a/?token=x", "https://a/?api_key=x", "https://a/#x", "https://a/b c", "https://a/\r\nX: y",
    "https://bücher.example/", "https://a/\\b", "https://a/" + "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_what_is_no_url_of_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_url(url)
    assert "pw" not in caught.value.message


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
    found[:] = ["127.0.0.1", "127.0.0.1"]
    receiver.manner = "close"  # an event that may have been taken is not sent to another address
    assert attempt(receiver.url).error
    assert len(receiver.requests) == 2


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
        handshake = attempt(f"https://127.0.0.1:{port}/", seconds=3)
        assert handshake.error == "no answer within 3 s"


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
    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) if context else connection as line:
            read = b""
            while not read.endswith(BODY) and read[:1] != b"\x16" and (more := line.recv(65536)):
                read += more
            line.sendall(data)

    with raw_server(serve) as port:
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}/hook"


def test_a_certificate_has_to_be_of_the_host_that_the_url_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    with answering(OK, context) as url:
        assert attempt(url).error.startswith("its certificate is not trusted: ")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert attempt(url) == DeliveryAnswer()
        # The same machine by a name, which the certificate does not have.
        monkeypatch.setattr("fusery.registry.webhooks.sending.addresses_of", lambda *_, **__: ["127.0.0.1"])
        assert "certificate is not trusted" in attempt(url.replace("127.0.0.1", "hooks.example.org")).error


def test_who_speaks_no_tls_is_told_so() -> None:
    with answering(OK) as url:
        assert attempt(url.replace("http:", "https:")).error == "it does not speak TLS"


def test_errors_repeat_nothing_of_the_url() -> None:
    port = free_port()
    assert "s3cr3t" not in attempt(f"http://127.0.0.1:{port}/s3cr3t").error
