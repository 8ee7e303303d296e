"""One attempt: what a receiver is reached by, TLS, and that nothing leads elsewhere."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from ports import free_port
from webhook_receiver import OK, Receiver, up

from fusery.registry.webhooks import addresses
from fusery.registry.webhooks.addresses import parse_url
from fusery.registry.webhooks.sending import Answer, post
from fusery.testing.notifiers import NotifierContract, Receiving

pytestmark = pytest.mark.timing

BODY = b'{"data": {"seq": 1}}'


def attempt(url: str, *, seconds: float = 60.0) -> Answer:
    return post(parse_url(url), {"Webhook-Id": "msg_1"}, BODY, private=True, seconds=seconds)


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address the second time is asked once."""
    asked, connected = [], []

    def look(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def connect(address: tuple[str, int], **how: float) -> socket.socket:
        connected.append(address[0])
        made = socket.socket(socket.AF_INET)
        made.settimeout(how["timeout"])
        made.connect(address)
        return made

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert attempt(f"http://hooks.example.org:{receiver.port}/hook") == Answer()
    assert (asked, connected) == (["hooks.example.org"], ["127.0.0.1"])
    assert receiver.requests[0].headers["host"] == f"hooks.example.org:{receiver.port}"


def test_another_address_is_tried_where_one_does_not_take_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ["127.0.0.2", "127.0.0.1"]  # the receiver listens at the second
    monkeypatch.setattr("fusery.registry.webhooks.sending.addresses_of", lambda *_, **__: found)
    assert attempt(receiver.url) == Answer()


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert attempt(receiver.url) == Answer()


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
            assert attempt(url) == Answer()
    for status in (199, 300, 304, 400, 401, 429, 503, 999):
        with answering(f"HTTP/1.1 {status} No\r\n\r\n".encode()) as url:
            assert str(status) in attempt(url).error
    with answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n") as url:
        assert attempt(url) == Answer()


@contextmanager
def answering(
    data: bytes, context: ssl.SSLContext | None = None, host: str = "127.0.0.1", pause: float = 0.0
) -> Iterator[str]:
    """Have a server answer every connection with some bytes, or one of them after each pause."""
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
                    for byte in data if pause else ():
                        time.sleep(pause)
                        line.sendall(bytes([byte]))
                    if not pause:
                        line.sendall(data)
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        scheme = "https" if context else "http"
        yield f"{scheme}://{host}:{server.getsockname()[1]}/hook"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def certificate(folder: Path, *, name: str) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for a name, which signs itself; return a server's context and the file of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name[0].isdigit():
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, secret = folder / f"{name}.crt", folder / f"{name}.key"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, secret)
    return context, path


def test_a_certificate_has_to_be_of_the_host_that_the_url_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, path = certificate(tmp_path, name="localhost")
    with answering(OK, context, host="localhost") as url:
        assert attempt(url).error.startswith("its certificate is not good: ")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert attempt(url) == Answer()
        # The same machine by its address, which the certificate does not name.
        assert "certificate is not good" in attempt(url.replace("localhost", "127.0.0.1")).error


def test_who_speaks_no_tls_is_told_so() -> None:
    with answering(OK, host="localhost") as url:
        assert attempt(url.replace("http:", "https:")).error == "it does not speak TLS"


def test_a_byte_a_second_over_tls_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, path = certificate(tmp_path, name="localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    slow = b"HTTP/1.1 200 " + b"O" * 60
    with answering(slow, context, host="localhost", pause=0.1) as url:
        assert attempt(url, seconds=2).error == "no answer within 2 s"


def test_errors_repeat_nothing_of_the_url() -> None:
    port = free_port()
    assert "s3cr3t" not in attempt(f"http://127.0.0.1:{port}/s3cr3t").error


class HttpReceiving(Receiving):
    def __init__(self, receiver: Receiver, listening: ExitStack) -> None:
        self.url, self.receiver, self.listening = receiver.url, receiver, listening

    def received(self) -> list[tuple[Mapping[str, str], bytes]]:
        return [(each.headers, each.body) for each in self.receiver.requests]

    def leave(self) -> None:
        self.listening.close()

    def stop_answering(self) -> None:
        self.receiver.manner = "hang"


class TestHttp(NotifierContract):
    notifier = staticmethod(post)

    @pytest.fixture
    def receiving(self) -> Iterator[HttpReceiving]:
        with ExitStack() as listening:
            receiver = Receiver(free_port())
            listening.enter_context(up(receiver))
            yield HttpReceiving(receiver, listening)
