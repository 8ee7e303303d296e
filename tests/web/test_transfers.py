"""Blobs and packages that programs send and fetch: ranges, offsets, limits, and whatever else somebody may send."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tiny_models
from page_server import Answer, ask, pages_of, post_form
from sqlalchemy import select, update
from waiting import wait_until

from fusery.registry import Registry, tables
from fusery.registry.collect import collect
from fusery.registry.exchange.uploads import UploadLimits
from fusery.web import app as application
from fusery.web import guard, transfers
from fusery.web.doors import Proxies, TeamDoor

MIB = 1 << 20
LIMITS = UploadLimits(largest=8 * MIB, parts=3, bytes=20 * MIB)


@dataclass(frozen=True)
class Sent:
    """What the server said of raw bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Server:
    """A server, and the secrets of tokens for it."""

    registry: Registry
    url: str
    publisher: str
    other: str
    reader: str

    def put(self, data: bytes, digest: str | None = None, *, by: str | None = None, **headers: str) -> Answer:
        place = f"/api/v1/blobs/{digest or digest_of(data)}"
        token = by or self.publisher
        return ask(self.url, place, method="PUT", body=data, authorization=f"Bearer {token}", **headers)  # type: ignore[arg-type]

    def get(self, digest: str, method: str = "GET", **headers: str) -> Sent:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        sent = {"Authorization": f"Bearer {self.reader}", **headers}
        connection.request(method, f"/api/v1/blobs/{digest}", headers=sent)
        answer = connection.getresponse()
        found = Sent(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def missing(self, *digests: str) -> list[dict[str, object]]:
        answer = ask(
            self.url,
            "/api/v1/blobs/missing",
            method="POST",
            body=json.dumps(digests),
            authorization=f"Bearer {self.publisher}",
        )
        assert answer.status == 200, answer.text
        return list(answer.json)

    def raw(self, *pieces: bytes) -> bytes:
        """Send bytes as they are, hang up, and return what came back."""
        parts = urlsplit(self.url)
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as connection:
            for piece in pieces:
                connection.sendall(piece)
            # What a server has not read when it hears of the end is lost.
            time.sleep(0.3)
            back = b""
            with suppress(OSError):  # it may have hung up first
                connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while data := connection.recv(65_536):
                    back += data
            return back

    def head_of(self, digest: str, *lines: str) -> bytes:
        said = [
            f"PUT /api/v1/blobs/{digest} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.publisher}",
        ]
        return ("\r\n".join([*said, *lines]) + "\r\n\r\n").encode()

    @property
    def parts(self) -> list[Path]:
        folder = self.registry.workspace.store.staging_folder
        assert folder is not None
        return sorted(folder.iterdir())


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int, seed: int = 0) -> bytes:
    return b"".join(hashlib.sha256(b"%d %d" % (seed, n)).digest() for n in range(-(-size // 32)))[:size]


@pytest.fixture
def server(own: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(application.create_app, "__kwdefaults__", {"hosts": (), "uploads": LIMITS})
    made = {name: own.tokens.create(name, role).secret for name, role in
            {"ci": "publisher", "ann": "publisher", "eve": "reader"}.items()}  # fmt: skip
    with pages_of(own, TeamDoor(own, Proxies())) as url:
        yield Server(own, url, made["ci"], made["ann"], made["eve"])


@pytest.fixture
def known(server: Server) -> tuple[str, bytes]:
    """A blob that something refers to."""
    with server.registry.workspace.database.read() as session:
        row = session.scalars(select(tables.Blob).order_by(tables.Blob.size.desc())).first()
        assert row is not None
        digest, generation = row.digest, row.generation
    path = server.registry.workspace.store.local_path(digest, generation=generation)  # type: ignore[arg-type]
    assert path is not None
    return digest, path.read_bytes()


def test_a_blob_comes_whole_or_in_a_range(server: Server, known: tuple[str, bytes]) -> None:
    digest, data = known
    size = len(data)
    whole = server.get(digest)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, data, "bytes")
    head = server.get(digest, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(size))
    for asked, first, last in [
        ("bytes=0-0", 0, 0), ("bytes=7-", 7, size - 1), ("bytes=-5", size - 5, size - 1),
        (f"bytes=1-{size + 9}", 1, size - 1), (f"bytes=-{size * 3}", 0, size - 1),
    ]:  # fmt: skip
        part = server.get(digest, Range=asked)
        assert (part.status, part.body) == (206, data[first : last + 1]), asked
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=9-3"):
        none = server.get(digest, Range=asked)
        assert (none.status, none.headers["content-range"]) == (416, f"bytes */{size}"), asked
    for asked in ("bytes=0-1,3-4", "bytes=-", "bytes=x-y", "items=0-1", "bytes=" + "9" * 30 + "-"):
        assert server.get(digest, Range=asked).body == data, asked


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("change", [7, -3])
def test_wrong_recorded_size_is_an_error_with_a_hint(
    server: Server, known: tuple[str, bytes], method: str, change: int
) -> None:
    digest, data = known
    with server.registry.workspace.database.write() as session:
        session.execute(
            update(tables.Blob).where(tables.Blob.digest == digest).values(size=len(data) + change)
        )
    answer = server.get(digest, method)
    assert answer.status == 500
    if method == "GET":
        error = json.loads(answer.body)["error"]
        assert (error["code"], "fusery audit" in error["hint"]) == ("blob_corrupt", True)


@pytest.mark.parametrize("size", [0, 3, None])
def test_truncated_blob_is_an_error_before_the_first_byte(
    server: Server, known: tuple[str, bytes], size: int | None
) -> None:
    digest, data = known
    path = server.registry.workspace.store.local_path(digest)  # type: ignore[arg-type]
    assert path is not None
    path.chmod(0o644)
    if size is None:
        path.unlink()
    else:
        path.write_bytes(data[:size])
    answer = server.get(digest)
    error = json.loads(answer.body)["error"]
    expected = (404, "blob_missing") if size is None else (500, "blob_corrupt")
    assert (answer.status, error["code"]) == expected
    assert "fusery audit" in error["hint"]


@pytest.mark.parametrize(
    "digest", ["0" * 64, "0" * 63, "F" * 64, "..%2f..%2ffusery.db", "%00", "missing", "é".encode().hex()]
)
def test_what_is_no_blob_is_not_there(server: Server, digest: str) -> None:
    assert server.get(digest).status in (400, 404)
    assert server.put(b"x", digest).status in (400, 404)


def test_a_blob_is_stored_once_and_waits_for_its_record(server: Server) -> None:
    data = noise(3 * MIB + 17)
    digest = digest_of(data)
    assert server.missing(digest) == [{"digest": digest, "complete": False, "bytes": 0}]
    assert server.put(data).status == 200
    assert server.missing(digest) == [{"digest": digest, "complete": True, "bytes": 0}]
    assert server.put(data).status == 200
    assert server.get(digest).status == 404, "nothing refers to it yet"
    assert server.parts == []
    workspace = server.registry.workspace
    assert digest not in {each.name for each in collect(workspace, grace=0).items_}
    assert workspace.store.size(digest) == len(data)  # type: ignore[arg-type]
    with workspace.database.write() as session:  # as after a day
        for intent in session.scalars(select(tables.Intent)):
            session.delete(intent)
    assert digest in {each.name for each in collect(workspace, grace=0).items_}


def test_an_upload_goes_on_where_it_was_cut(server: Server) -> None:
    data = noise(3 * MIB + 5)
    digest, size = digest_of(data), 3 * MIB + 5
    come = 0
    for cut in (1, MIB, 2 * MIB + 3):
        server.raw(
            server.head_of(
                digest, f"Content-Length: {size - come}", f"Upload-Offset: {come}", f"Upload-Length: {size}"
            ),
            data[come:cut],
        )
        wait_until(lambda cut=cut: server.missing(digest)[0]["bytes"] == cut)  # type: ignore[misc]
        come = cut
    assert collect(server.registry.workspace, grace=0) is not None
    assert server.missing(digest)[0]["bytes"] == come, "the collector leaves it alone"
    wrong = server.put(data[5:], digest, Upload_Offset="5", Upload_Length=str(size))
    assert (wrong.status, wrong.json["error"]["code"]) == (409, "upload_offset")
    theirs = server.put(
        data[come:], digest, by=server.other, Upload_Offset=str(come), Upload_Length=str(size)
    )
    assert theirs.status == 409, "it belongs to who began it"
    assert server.put(data[come:], digest, Upload_Offset=str(come), Upload_Length=str(size)).status == 200
    assert server.missing(digest)[0]["complete"] is True


def test_wrong_bytes_leave_nothing(server: Server) -> None:
    data = noise(2 * MIB)
    answer = server.put(data[:-1] + b"?", digest_of(data))
    assert (answer.status, answer.json["error"]["code"]) == (400, "blob_corrupt")
    assert server.parts == []
    assert server.missing(digest_of(data))[0] == {"digest": digest_of(data), "complete": False, "bytes": 0}


def test_lengths_that_cannot_be(server: Server) -> None:
    data = b"some bytes"
    digest = digest_of(data)
    for lines, status in [
        ((), b"411"),
        (("Transfer-Encoding: chunked",), b"411"),
        (("Content-Length: 10", "Upload-Length: 9"), b"400"),
        (("Content-Length: 10", "Upload-Offset: 1", "Upload-Length: 10"), b"400"),
        (("Content-Length: 10", "Upload-Offset: -1"), b"400"),
        (("Content-Length: 10", "Upload-Offset: 1e3"), b"400"),
        (("Content-Length: 9999999",), b"413"),
        (("Content-Length: " + "9" * 18,), b"413"),
    ]:
        back = server.raw(
            server.head_of(digest, *lines),
            b"a\r\nsome bytes\r\n0\r\n\r\n" if "chunked" in str(lines) else data,
        )
        assert back.startswith(b"HTTP/1.1 " + status), (lines, back[:200])
    for lines in [
        ("Content-Length: -1",),
        ("Content-Length: 10", "Content-Length: 11"),
        ("Content-Length: ten",),
    ]:
        assert server.raw(server.head_of(digest, *lines), data)[9:12] in (b"400", b"411"), lines
    # What comes after the announced end is another request, and none.
    back = server.raw(server.head_of(digest, "Content-Length: 10"), data + b"and more\r\n\r\n")
    assert back.startswith(b"HTTP/1.1 200"), back[:200]
    assert server.parts == []


def test_a_body_that_is_shorter_than_said_can_be_gone_on_with(server: Server) -> None:
    data = noise(MIB)
    server.raw(server.head_of(digest_of(data), f"Content-Length: {MIB}"), data[:1000])
    wait_until(lambda: server.missing(digest_of(data))[0]["bytes"] == 1000)


def test_so_many_unfinished_uploads_and_no_more(server: Server) -> None:
    for seed in range(3):
        data = noise(MIB, seed)
        server.raw(server.head_of(digest_of(data), f"Content-Length: {MIB}"), data[:100])
        wait_until(lambda data=data: server.missing(digest_of(data))[0]["bytes"] == 100)  # type: ignore[misc]
    # One more takes the place of the oldest: whoever is interrupted often does not shut themselves out.
    assert server.put(noise(MIB, 9)).status == 200
    assert [server.missing(digest_of(noise(MIB, seed)))[0]["bytes"] for seed in range(3)] == [0, 100, 100]
    second = noise(MIB, 1)
    assert (
        server.put(second[100:], digest_of(second), Upload_Offset="100", Upload_Length=str(MIB)).status == 200
    )


def test_what_is_being_sent_gives_way_to_nothing(server: Server) -> None:
    with ExitStack() as opened:
        parts = urlsplit(server.url)
        for seed in range(3):
            data = noise(MIB, seed)
            sending = opened.enter_context(socket.create_connection((str(parts.hostname), parts.port or 0)))
            sending.sendall(server.head_of(digest_of(data), f"Content-Length: {MIB}") + data[:100])
        wait_until(lambda: len(server.parts) == 3)
        more = server.put(noise(MIB, 9))
        assert (more.status, "not finished" in more.text) == (400, True)
        assert server.put(noise(MIB, 9), by=server.other).status == 200
    wait_until(lambda: server.put(noise(MIB, 9)).status == 200)


def test_asking_for_what_nobody_has_writes_nothing(server: Server) -> None:
    """A list of digests is nothing that a database should grow by."""

    def intents() -> int:
        with server.registry.workspace.database.read() as session:
            return len(session.scalars(select(tables.Intent)).all())

    before = intents()
    digests = [digest_of(noise(10, seed)) for seed in range(300)]
    assert not any(each["complete"] for each in server.missing(*digests))
    assert intents() == before
    assert server.put(noise(10, 7)).status == 200
    [known] = server.missing(digest_of(noise(10, 7)))
    assert known["complete"]


def test_whoever_holds_on_leaves_room_for_others(server: Server, tmp_path: Path) -> None:
    """As many fetch a blob and read nothing as there are turns, by one name, however they write the header; somebody else is served meanwhile."""
    folder = tiny_models.make_base(tmp_path / "large", layers=1, vocab=40_000, hidden=256)
    server.registry.bases.add(folder, name="large")
    data = (folder / "model.safetensors").read_bytes()
    assert len(data) > 16 * MIB  # more than lies on the way
    assert ask(server.url, "/api/v1/tasks", authorization=f"Bearer {server.other}").status == 200
    spellings = ("Bearer ", "bearer ", "BEARER ", "bEARER  ")
    with ExitStack() as opened:
        parts = urlsplit(server.url)
        for number in range(guard.TRANSFERS[0]):
            scheme = spellings[number % len(spellings)]
            head = f"GET /api/v1/blobs/{digest_of(data)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {scheme}{server.other}\r\n\r\n"
            reading = opened.enter_context(socket.socket())
            reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reading.connect((str(parts.hostname), parts.port or 0))
            reading.sendall(head.encode())
        started = time.monotonic()
        for seed in range(5):
            assert server.get(digest_of(data), Range="bytes=0-9").body == data[:10], seed
        assert time.monotonic() - started < transfers.STALLED / 2


def test_two_who_send_the_same_at_once_store_it_once(server: Server) -> None:
    data = noise(4 * MIB)
    answers: list[int] = []

    def send(by: str) -> None:
        answers.append(server.put(data, by=by).status)

    threads = [threading.Thread(target=send, args=(by,)) for by in (server.publisher, server.other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    stored = [path for path in server.registry.workspace.store.blobs() if path.digest == digest_of(data)]
    assert (len(stored), server.parts) == (1, [])


def test_one_name_sends_a_blob_once_at_a_time(server: Server) -> None:
    data = noise(2 * MIB)
    parts = urlsplit(server.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as slow:
        slow.sendall(server.head_of(digest_of(data), f"Content-Length: {len(data)}") + data[:MIB])
        wait_until(lambda: server.missing(digest_of(data))[0]["bytes"] != 0)
        busy = server.put(data)
        assert (busy.status, busy.json["error"]["code"]) == (409, "upload_busy")
        slow.sendall(data[MIB:])
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")


def test_slow_transfers_are_not_in_the_way_of_pages(server: Server) -> None:
    data = noise(2 * MIB)
    parts = urlsplit(server.url)
    slow = []
    for _ in range(12):
        connection = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)
        connection.sendall(server.head_of(digest_of(data), f"Content-Length: {len(data)}") + data[:10])
        slow.append(connection)
    time.sleep(0.5)
    assert ask(server.url, "/api/v1/tasks", authorization=f"Bearer {server.reader}").status == 200
    for connection in slow:
        connection.close()


def test_who_only_reads_sends_nothing_and_a_browser_neither(server: Server) -> None:
    assert server.put(b"x", by=server.reader).status == 403
    place = f"/api/v1/blobs/{digest_of(b'x')}"
    entered = post_form(server.url, "/sign-in", {"token": server.publisher})
    cookie = entered.headers["set-cookie"].split("; ")[0]
    assert ask(server.url, place, method="PUT", body=b"x", cookie=cookie).status == 403
    server.registry.tokens.revoke("ci")
    assert server.put(b"x").status == 401
    assert server.get("0" * 64, Authorization="Bearer nothing").status == 401


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[1]", b'["x"]', b"[" * 1000, b'"' + b"a" * 70_000, b"\xff",
                                  json.dumps(["0" * 64] * 901).encode()])  # fmt: skip
@pytest.mark.parametrize("place", ["packages", "packages/plan", "blobs/missing"])
def test_bodies_that_are_none(server: Server, place: str, body: bytes) -> None:
    answer = ask(
        server.url, f"/api/v1/{place}", method="POST", body=body, authorization=f"Bearer {server.publisher}"
    )
    assert answer.status in (400, 413), answer.text
    assert answer.json["error"]["message"]


def test_who_sends_next_to_nothing_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come can be gone on with, and its place is free."""
    monkeypatch.setattr(transfers, "STALLED", 1)
    data = noise(MIB)
    digest, parts = digest_of(data), urlsplit(server.url)
    sent, answered = 100, b""
    for _ in range(5):
        with (
            socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60) as slow,
            # A byte that comes after the server has hung up resets the connection, and takes the answer with it.
            suppress(ConnectionError),
        ):
            slow.sendall(server.head_of(digest, f"Content-Length: {len(data)}") + data[:100])
            sent, answered = 100, b""
            slow.settimeout(0.3)
            while not answered and sent < 50_000:
                slow.sendall(data[sent : sent + 1])
                sent += 1
                with suppress(TimeoutError):
                    answered = slow.recv(65_536)
            slow.settimeout(60)
            while piece := slow.recv(65_536):  # the head may come before the rest
                answered += piece
        if b"too_slow" in answered:
            break
    assert answered.startswith(b"HTTP/1.1 408") and b"too_slow" in answered
    come = server.missing(digest)[0]["bytes"]
    assert 100 <= come <= sent
    assert server.put(data[come:], digest, Upload_Offset=str(come), Upload_Length=str(MIB)).status == 200
