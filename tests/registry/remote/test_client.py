"""Requests to a server that lies, does not end, or is behind a proxy."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from programs import free_port, running
from stub_server import TOKEN, Write, lying, raw_server, response
from waiting import PATIENCE

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, ServerRefusedError, ServerUnavailableError
from fusery.registry.record import Record
from fusery.registry.records.release import Promotion
from fusery.registry.remote import client
from fusery.registry.remote import server as remote_server
from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.server import Server
from fusery.registry.wire import decode
from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

pytestmark = pytest.mark.timing

PROMOTION: dict[str, Any] = {
    "alias": "t#prod", "adapter": "x", "holder": None, "verdict": "failed", "moved": False, "confirmed": False,
    "guarded": True, "dry_run": False, "reason": "r", "withdrawals": [],
    "rules": [{"rule": "approvals", "wanted": 1, "state": "failed", "why": "w", "hint": "fusery audit"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(client.HttpClient, "attempts", 3)


def ask(server: Server, *, writes: bool = False) -> Any:
    return server.ask("tasks/list", {}, list[str], writes=writes)


def test_response_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 1 << 20)
    sent: list[int] = []

    def endless(head: bytes, write: Write) -> None:
        write(response(b"", Transfer_Encoding="chunked"))
        while True:
            write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            sent.append(0x10000)

    with lying(endless) as (server, heads), pytest.raises(ServerRefusedError):
        ask(server)
    assert len(heads) == 1
    assert sum(sent) < 64 << 20


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("dripping", ["head", "body"])
def test_response_is_limited_in_time(monkeypatch: pytest.MonkeyPatch, dripping: str, writes: bool) -> None:
    """Each byte comes in time, and the response never ends."""
    ended = threading.Event()

    def drip(head: bytes, write: Write) -> None:
        write(b"HTTP/1.1 200 OK\r\n" if dripping == "head" else response(b"", Content_Length=1_000_000))
        while not ended.wait(0.02):
            write(b"x")

    with lying(drip) as (server, heads), pytest.raises(ServerUnavailableError):
        assert server.pool, "its imports do not count"
        server.request("POST", "/x", b"{}", whole=0.5, repeat=not writes)
    ended.set()
    assert len(heads) == 1 if writes else len(heads) > 1, "a change is sent once"


def test_connection_made_after_the_time_is_up_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, late = threading.Event(), threading.Event()
    shut_down, make = client.Sockets.shut_down, client.HttpClient._make_pool

    def noted(self: client.Sockets, **options: Any) -> None:
        late.set()
        shut_down(self, **options)

    def slow(self: client.HttpClient) -> Any:
        assert late.wait(PATIENCE)
        return make(self)

    def drip(head: bytes, write: Write) -> None:
        write(response(b"", Content_Length=1_000_000))
        while not ended.wait(0.02):
            write(b"x")

    monkeypatch.setattr(client.Sockets, "shut_down", noted)
    monkeypatch.setattr(client.HttpClient, "_make_pool", slow)
    with lying(drip) as (server, _):
        guard = threading.Timer(PATIENCE, ended.set)
        guard.start()
        with pytest.raises(ServerUnavailableError):
            server.request("POST", "/x", b"{}", whole=0.1, repeat=False)
    guard.cancel()
    assert not ended.is_set()
    ended.set()


def test_compressed_response_is_refused() -> None:
    """Nothing was asked for in that form, and it may be a bomb."""
    bomb = gzip.compress(bytes(64 << 20))

    def answer(head: bytes, write: Write) -> None:
        write(response(bomb, Content_Encoding="gzip"))

    with lying(answer) as (server, heads), pytest.raises(ServerRefusedError):
        ask(server)
    assert b"accept-encoding: identity" in heads[0].lower()


@pytest.mark.parametrize(
    "data",
    [
        response(b"", Transfer_Encoding="chunked") + b"zz\r\nabc",
        response(b"", Transfer_Encoding="chunked") + b"5\r\nab",
        response(b"[]", Content_Length=100),
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"",
    ],
)
def test_broken_response_is_asked_for_again(data: bytes) -> None:
    with lying(lambda head, write: write(data)) as (server, heads):
        with pytest.raises(ServerUnavailableError):
            ask(server)
        assert len(heads) > 1
        heads.clear()
        with pytest.raises(ServerUnavailableError):
            ask(server, writes=True)
        assert len(heads) == 1, "a change is sent once"


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (403, b"<html>Forbidden</html>"), (200, b"[1]"), (200, b"\xff"), (200, b"{"), (409, b""), (409, b"{}"),
        (409, b"5"), (409, b"null"), (409, b"[]"), (409, b'"x"'), (409, b"\xff"), (409, b'{"error": 1}'),
        (409, b"[" * 100_000), (200, b"[" * 100_000),
    ],
)  # fmt: skip
def test_other_json_is_refused(status: int, data: bytes) -> None:
    with (
        lying(lambda head, write: write(response(data, status))) as (server, _),
        pytest.raises(ServerRefusedError),
    ):
        ask(server, writes=True)


@pytest.mark.parametrize("change", [{"verdict": "splendid"}, {"moved": "yes"}, {"rules": [1]}, {}])
def test_refused_promotion_is_a_record(change: dict[str, object]) -> None:
    data = json.dumps(PROMOTION | change).encode()
    with lying(lambda head, write: write(response(data, 409))) as (server, _):
        if change:
            with pytest.raises(ServerRefusedError):
                server.ask("aliases/promote", {}, Promotion, writes=True)
        else:
            done = server.ask("aliases/promote", {}, Promotion, writes=True)
            assert (done.verdict, done.rules[0].state) == ("failed", "failed")


def test_messages_have_no_token_and_no_control_characters() -> None:
    for status, error in (
        (403, {"code": "role_not_enough", "message": f"{TOKEN}\x1b[2J", "hint": TOKEN}),
        (418, {"code": "unknown", "message": f"{TOKEN}\x1b[2J"}),
        (503, {"code": "busy", "message": f"{TOKEN}\x1b[2J"}),
    ):
        answer = response(json.dumps({"error": error}).encode(), status)
        with (
            lying(lambda head, write: write(answer)) as (server, _),  # noqa: B023
            pytest.raises(FuseryError) as caught,
        ):
            ask(server)
        shown = f"{caught.value} {caught.value.hint}"
        assert TOKEN not in shown and "\x1b" not in shown


@contextmanager
def connect_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """Yield the URL of a proxy for CONNECT requests, and their first lines."""
    asked: list[bytes] = []

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        asked.append(head.partition(b"\r\n")[0])
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT":
            connection.sendall(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            connection.close()
            return
        # The name stands for this machine: it has no address of its own.
        with connection, socket.create_connection(("127.0.0.1", int(target.rpartition(b":")[2]))) as upstream:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pass_on, args=(upstream, connection), daemon=True)
            back.start()
            pass_on(connection, upstream)
            back.join()

    with raw_server(serve) as port:
        yield f"http://127.0.0.1:{port}", asked


def test_https_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    public, private = certificate(tmp_path, "models.example.org")
    monkeypatch.setenv("FUSERY_CA_FILE", str(public))
    home = tmp_path / "team"
    with Registry.open(home) as team:
        team.init()
        token, identity = team.tokens.create("ci", "publisher").secret, team.workspace.identity
    words = ["server", "--port", "0", "--json", "--allow-host", "models.example.org"]
    words += ["--certificate", str(public), "--key", str(private)]
    with connect_proxy() as (proxy, asked), running(home, *words) as (_, printed):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        local = json.loads(printed)["url"]
        url = local.replace("127.0.0.1", "models.example.org")
        with Registry.open(url, token=token) as there:
            assert there.tokens.own().registry == identity
        assert asked == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1".encode()]
        with Registry.open(local, token=token) as there, pytest.raises(ServerUnavailableError):
            there.tokens.own()  # this machine is reached without the proxy, and has another certificate
        assert len(asked) == 1
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        with Registry.open(url, token=token) as there, pytest.raises(ServerUnavailableError):
            there.tokens.own()
        monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")
        with Registry.open(url, token=token) as there, pytest.raises(BadInputError):
            there.tokens.own()


class Named(Record):
    digest: Digest
    former: Digest | None = None


@pytest.fixture
def server() -> Server:
    return Server(ServerAddress.parse("http://127.0.0.1:1"), TOKEN)


def test_numbers_beyond_a_float_are_refused() -> None:
    with pytest.raises(ValueError):
        decode(float, 10**400)
    with pytest.raises(ValueError, match="expected one of"):
        decode(float | None, 10**400)


@pytest.mark.parametrize("digest", ["\x1b]0;x\x07", "a" * 63, "A" * 64, 5])
def test_digests_are_hex(digest: object) -> None:
    assert decode(Named, {"digest": "a" * 64}).digest == "a" * 64
    with pytest.raises(ValueError, match=r"digest|expected str"):
        decode(Named, {"digest": digest})
    with pytest.raises(ValueError, match="expected one of"):
        decode(Named, {"digest": "a" * 64, "former": digest})


def test_responses_with_too_many_values_are_not_parsed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_server, "MOST_VALUES", 100)
    assert server.decoded(list[object], b"[" + b"{}," * 40 + b"{}]") == [{}] * 41
    for body in (b"[" + b"{}," * 200 + b"{}]", b"[" * 200, b"[1e999]", b"\xff"):
        with pytest.raises(ServerRefusedError):
            server.decoded(list[object], body)
