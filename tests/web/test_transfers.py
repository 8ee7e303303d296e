"""Blobs and packages that programs send and fetch: ranges, offsets, limits, and whatever else somebody may send."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import tiny_models
from page_server import Answer, ask, pages_of, post_form, post_json
from sqlalchemy import select, update
from starlette.requests import Request
from waiting import wait_until

from fusery.registry import Registry, tables
from fusery.registry.exchange.uploads import UploadLimits
from fusery.registry.upkeep.collect import collect
from fusery.web import app as application
from fusery.web import limits, transfers
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing

MIB = 1 << 20
LIMITS = UploadLimits(largest=8 * MIB, parts=3, bytes=20 * MIB)


@dataclass(frozen=True)
class Server:
    registry: Registry
    url: str
    publisher: str
    other: str
    reader: str
    received: list[int]

    def put(self, data: bytes, digest: str | None = None, *, by: str | None = None, **headers: str) -> Answer:
        place = f"/api/v1/blobs/{digest or digest_of(data)}"
        token = by or self.publisher
        return ask(self.url, place, method="PUT", body=data, authorization=f"Bearer {token}", **headers)  # type: ignore[arg-type]

    def get(self, digest: str, method: str = "GET", **headers: str) -> SimpleNamespace:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        sent = {"Authorization": f"Bearer {self.reader}", **headers}
        connection.request(method, f"/api/v1/blobs/{digest}", headers=sent)
        answer = connection.getresponse()
        headers_back = {name.lower(): value for name, value in answer.getheaders()}
        with closing(connection):
            return SimpleNamespace(status=answer.status, headers=headers_back, body=answer.read())

    def missing(self, *digests: str) -> list[dict[str, object]]:
        authorization = f"Bearer {self.publisher}"
        answer = post_json(self.url, "/api/v1/blobs/missing", digests, authorization=authorization)
        assert answer.status == 200, answer.text
        return list(answer.json)

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)

    def raw(self, *pieces: bytes) -> bytes:
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            back = b""
            with suppress(ConnectionError):
                while data := connection.recv(65_536):
                    back += data
            return back

    def begin(self, data: bytes, last: int, first: int = 0) -> socket.socket:
        expected = self.received[0] + last - first
        size = len(data)
        lines = f"Content-Length: {size - first}", f"Upload-Offset: {first}", f"Upload-Length: {size}"
        connection = self.connect()
        connection.sendall(self.head_of(digest_of(data), *lines) + data[first:last])
        wait_until(lambda: self.received[0] == expected)
        return connection

    def come(self, data: bytes) -> int:
        return int(str(self.missing(digest_of(data))[0]["bytes"]))

    def go_on(self, data: bytes, offset: int, **how: Any) -> Answer:
        sent = {"Upload_Offset": str(offset), "Upload_Length": str(len(data))}
        return self.put(data[offset:], digest_of(data), **sent, **how)

    def head_of(self, digest: str, *lines: str) -> bytes:
        said = f"PUT /api/v1/blobs/{digest} HTTP/1.1", f"Authorization: Bearer {self.publisher}"
        always = "Host: localhost", "Connection: close"
        return ("\r\n".join([*said, *always, *lines]) + "\r\n\r\n").encode()

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
    monkeypatch.setattr(application, "USUAL", LIMITS)
    made = {name: own.tokens.create(name, role).secret for name, role in
            {"ci": "publisher", "ann": "publisher", "eve": "reader"}.items()}  # fmt: skip
    received, chunks = [0], transfers._chunks

    async def counted(request: Request) -> AsyncIterator[bytes]:
        async for chunk in chunks(request):
            received[0] += len(chunk)
            yield chunk

    monkeypatch.setattr(transfers, "_chunks", counted)
    with pages_of(own, TokenAuth(own, Proxies())) as url:
        yield Server(own, url, made["ci"], made["ann"], made["eve"], received)


@pytest.fixture
def known(server: Server) -> tuple[str, bytes]:
    with server.registry.workspace.database.read() as session:
        row = session.scalars(select(tables.BlobRow).order_by(tables.BlobRow.size.desc())).first()
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


def test_damaged_blobs_are_errors_with_a_hint(server: Server, known: tuple[str, bytes]) -> None:
    digest, data = known

    def error() -> tuple[int, str]:
        answer = server.get(digest)
        found = json.loads(answer.body)["error"]
        assert "fusery audit" in found["hint"]
        return answer.status, found["code"]

    def record(size: int) -> None:
        with server.registry.workspace.database.write() as session:
            session.execute(update(tables.BlobRow).where(tables.BlobRow.digest == digest).values(size=size))

    for size in (len(data) + 7, len(data) - 3):
        record(size)
        assert (server.get(digest, "HEAD").status, error()) == (500, (500, "blob_corrupt"))
    record(len(data))
    path = server.registry.workspace.store.local_path(digest)  # type: ignore[arg-type]
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(data[:3])
    assert error() == (500, "blob_corrupt")
    path.unlink()
    assert error() == (404, "blob_missing")


def test_what_is_no_blob_is_not_there(server: Server) -> None:
    for digest in ("0" * 64, "0" * 63, "F" * 64, "..%2f..%2ffusery.db", "%00", "missing"):
        assert server.get(digest).status in (400, 404)
        assert server.put(b"x", digest).status in (400, 404)


def test_a_blob_is_stored_once_and_waits_for_its_record(server: Server) -> None:
    workspace, digest = server.registry.workspace, digest_of(data := noise(3 * MIB + 17))

    def intents() -> int:
        with workspace.database.read() as session:
            return len(session.scalars(select(tables.IntentRow)).all())

    before = intents()
    assert server.missing(digest) == [{"digest": digest, "complete": False, "bytes": 0}]
    assert intents() == before, "asking for what nobody has writes nothing"
    assert server.put(data).status == 200
    assert server.missing(digest)[0]["complete"] is True
    assert server.put(data).status == 200
    assert server.get(digest).status == 404, "nothing refers to it yet"
    assert server.parts == []
    assert digest not in {each.name for each in collect(workspace, grace=0).items_}
    assert workspace.store.size(digest) == len(data)  # type: ignore[arg-type]
    with workspace.database.write() as session:  # as after a day
        for intent in session.scalars(select(tables.IntentRow)):
            session.delete(intent)
    assert digest in {each.name for each in collect(workspace, grace=0).items_}


def test_an_upload_goes_on_where_it_was_cut(server: Server) -> None:
    data = noise(3 * MIB + 5)
    digest, come = digest_of(data), 0
    for cut in (1, MIB, 2 * MIB + 3):
        server.begin(data, cut, come).close()
        come = cut
        wait_until(lambda come=come: server.come(data) == come)  # type: ignore[misc]
    assert server.go_on(data, 5).json["error"]["code"] == "upload_offset"
    assert collect(server.registry.workspace, grace=0) is not None
    assert server.come(data) == come, "the collector leaves it alone"
    assert server.go_on(data, come, by=server.other).status == 409, "it belongs to who began it"
    assert server.go_on(data, come).status == 200
    assert server.missing(digest)[0]["complete"] is True


def test_wrong_bytes_leave_nothing(server: Server) -> None:
    data = noise(2 * MIB)
    answer = server.put(data[:-1] + b"?", digest_of(data))
    assert (answer.status, answer.json["error"]["code"]) == (400, "blob_corrupt")
    assert (server.parts, server.come(data)) == ([], 0)


def test_what_is_not_sent_leaves_no_claim(server: Server) -> None:
    def claimed() -> set[str]:
        with server.registry.workspace.database.read() as session:
            return set(session.scalars(select(tables.IntentRow.digest)))

    before = claimed()
    for seed in range(4):
        data = noise(1000, seed)
        assert server.put(b"?" * 1000, digest_of(data)).status == 400
        assert server.put(data[:1], digest_of(data), Upload_Offset="9", Upload_Length="10").status == 409
        head = server.head_of(digest_of(data), "Content-Length: 1000")
        with server.connect() as connection:
            connection.sendall(head)
    wait_until(lambda: claimed() == before)
    parts = [noise(1000, seed) for seed in range(20, 26)]
    for data in parts:
        server.begin(data, 100).close()
        wait_until(lambda data=data: server.come(data) == 100)  # type: ignore[misc]
    assert len(claimed() - before) == LIMITS.parts
    empty = server.put(b"")
    assert empty.status == 200 and digest_of(b"") in claimed()


def test_lengths_that_cannot_be(server: Server) -> None:
    data = b"some bytes"
    for lines, status in [
        ((), "411"),
        (("Transfer-Encoding: chunked",), "411"),
        (("Content-Length: 10", "Upload-Length: 9"), "400"),
        (("Content-Length: 10", "Upload-Offset: 1", "Upload-Length: 10"), "400"),
        (("Content-Length: 10", "Upload-Offset: -1"), "400"),
        (("Content-Length: 9999999",), "413"),
        (("Content-Length: " + "9" * 18,), "413"),
        (("Content-Length: -1",), "400"),
        (("Content-Length: 10", "Content-Length: 11"), "400"),
        (("Content-Length: 10", "X: and more"), "200"),  # which is another request, and none
    ]:
        body = data + b"and more\r\n\r\n" if status == "200" else data
        if not lines:
            body = b""  # which would be another request, and may be refused first
        if "chunked" in str(lines):
            body = b"a\r\nsome bytes\r\n0\r\n\r\n"
        back = server.raw(server.head_of(digest_of(data), *lines), body)
        assert back.startswith(b"HTTP/1.1 " + status.encode()), (lines, back[:200])
    assert server.parts == []


def test_so_many_unfinished_uploads_and_no_more(server: Server) -> None:
    unfinished = [noise(MIB, seed) for seed in range(3)]
    with ExitStack() as opened:
        parts = [opened.enter_context(ExitStack()) for _ in unfinished]
        for part, data in zip(parts, unfinished, strict=True):
            part.enter_context(server.begin(data, 100))
        refused = server.put(noise(MIB, 9))
        assert refused.status == 400, "what is being sent gives way to nothing"
        assert server.put(noise(MIB, 9), by=server.other).status == 200
        # Whoever is interrupted often does not shut themselves out: one more takes the place of the oldest.
        for part, data in zip(parts, unfinished, strict=True):
            part.close()
            wait_until(lambda data=data: server.come(data) == 100)  # type: ignore[misc]
    assert server.put(noise(MIB, 8)).status == 200
    assert [server.come(data) for data in unfinished] == [0, 100, 100]
    assert server.go_on(unfinished[1], 100).status == 200


def test_who_waits_leaves_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many fetch a blob and read nothing as there are turns, by one name, however they write the header; somebody else is served meanwhile."""
    monkeypatch.setattr(limits, "STALLED", 600)  # none of them is hung up on
    folder = tiny_models.make_base(tmp_path / "large", layers=1, vocab=40_000, hidden=256, tied=True)
    server.registry.bases.add(folder, name="large")
    data = (folder / "model.safetensors").read_bytes()
    assert len(data) > 16 * MIB  # more than lies on the way
    assert ask(server.url, "/api/v1/adapters/tasks", authorization=f"Bearer {server.other}").status == 200
    schemes = itertools.cycle(("Bearer ", "bearer ", "BEARER ", "bEARER  "))
    with ExitStack() as opened:
        parts = urlsplit(server.url)
        for scheme in itertools.islice(schemes, limits.TRANSFERS[0]):
            head = f"GET /api/v1/blobs/{digest_of(data)} HTTP/1.1\r\nHost: localhost\r\n"
            reading = opened.enter_context(socket.socket())
            reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reading.connect((str(parts.hostname), parts.port or 0))
            reading.sendall(f"{head}Authorization: {scheme}{server.other}\r\n\r\n".encode())
        for _ in range(5):
            assert server.get(digest_of(data), Range="bytes=0-9").body == data[:10]


def test_two_who_send_the_same_at_once_store_it_once(server: Server) -> None:
    data = noise(4 * MIB)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda by: server.put(data, by=by).status, (server.publisher, server.other)))
    assert answers == [200, 200]
    stored = [path for path in server.registry.workspace.store.blobs() if path.digest == digest_of(data)]
    assert (len(stored), server.parts) == (1, [])


def test_one_name_sends_a_blob_once_at_a_time(server: Server) -> None:
    data = noise(2 * MIB)
    with server.begin(data, MIB) as slow:
        busy = server.put(data)
        assert (busy.status, busy.json["error"]["code"]) == (409, "upload_busy")
        slow.sendall(data[MIB:])
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200")


def test_who_only_reads_sends_nothing_and_a_browser_neither(server: Server) -> None:
    assert server.put(b"x", by=server.reader).status == 403
    place = f"/api/v1/blobs/{digest_of(b'x')}"
    entered = post_form(server.url, "/sign-in", {"token": server.publisher})
    cookie = entered.headers["set-cookie"].split("; ")[0]
    assert ask(server.url, place, method="PUT", body=b"x", cookie=cookie).status == 403
    server.registry.tokens.revoke("ci")
    assert server.put(b"x").status == 401
    assert server.get("0" * 64, Authorization="Bearer nothing").status == 401


def test_invalid_bodies_are_refused(server: Server) -> None:
    long = (b"[" * 1000, b'"' + b"a" * 70_000, json.dumps(["0" * 64] * 901).encode())
    for place in ("packages", "packages/plan", "blobs/missing"):
        for body in (b"", b"[", b"{}", b"[1]", b'["x"]', b"\xff", *long):
            asking = {"method": "POST", "authorization": f"Bearer {server.publisher}"}
            answer = ask(server.url, f"/api/v1/{place}", body=body, **asking)
            assert answer.status in (400, 413), (place, answer.text)
            assert answer.json["error"]["message"]


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J"])
def test_errors_repeat_no_text_that_cannot_be_shown(server: Server, text: str) -> None:
    sent = json.loads(server.registry.transfers.package("course_rec@1", fused=False))
    authorization = f"Bearer {server.publisher}"
    for kind, change in (("adapter", {"name": text}), ("base", {"names": [text]})):
        changed = {**sent, kind: [{**sent[kind][0], **change}]}
        answer = post_json(server.url, "/api/v1/packages/plan", changed, authorization=authorization)
        assert (answer.status, text in answer.json["error"]["message"]) == (400, False)
    for document in ({"reference": text, "note": "x"}, {"reference": "course_rec@1", "tags": {text: "x"}}):
        answer = post_json(server.url, "/api/v1/adapters/amend", document, authorization=authorization)
        assert 400 <= answer.status < 500 and text not in answer.json["error"]["message"]


def test_who_sends_next_to_nothing_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come can be gone on with, and its place is free."""
    data, now = noise(MIB), [0.0]
    monkeypatch.setattr(transfers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with server.begin(data, 100) as slow:
        now[0] += transfers.STALLED
        slow.sendall(data[100:101])
        answered = b""
        while piece := slow.recv(65_536):
            answered += piece
    assert answered.startswith(b"HTTP/1.1 408") and b"too_slow" in answered
    wait_until(lambda: server.come(data) == 100)
    with monkeypatch.context() as patched:
        patched.setattr(transfers, "STALLED", 0.1)
        with server.begin(data, 200, 100) as silent:
            assert silent.recv(12) == b"HTTP/1.1 400"
    wait_until(lambda: server.come(data) == 200)
    assert server.go_on(data, 200).status == 200
