"""Uploads to a server and downloads from it, where that lies, fails or has a part of the bytes."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from pathlib import Path

import pytest
from stub_server import Write, lying, response

from fusery.registry.errors import RoleError, ServerRefusedError, ServerUnavailableError
from fusery.registry.remote import blobs, client
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, FuseryError
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT

pytestmark = pytest.mark.timing

BLOB = b"0123456789" * 20_000
ENTRY = FileEntry("blob", len(BLOB), Digest(hashlib.sha256(BLOB).hexdigest()))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(client.HttpClient, "attempts", 3)


def refused(status: int, code: str) -> bytes:
    return response(json.dumps({"error": {"code": code, "message": "no"}}).encode(), status)


DONE = response(b"{}")
BUSY, CORRUPT, FORBIDDEN = (
    refused(409, "upload_busy"),
    refused(400, "blob_corrupt"),
    refused(403, "role_not_enough"),
)


@pytest.mark.parametrize(
    ("known", "arrived", "answers", "offsets", "error"),
    [
        (0, 0, [DONE], [0], None),
        (1_000, 0, [DONE], [1_000], None),
        (0, 50_000, [BUSY, DONE], [0, 50_000], None),
        (0, 50_000, [b"", DONE], [0, 50_000], None),
        (0, -5, [b"", DONE], [0, 0], None),
        (0, len(BLOB) * 2, [b"", DONE], [0, len(BLOB)], None),
        (1_000, 50_000, [CORRUPT, DONE], [1_000, 0], None),
        (1_000, 50_000, [CORRUPT, CORRUPT], [1_000, 0], BlobCorruptError),
        (0, 50_000, [CORRUPT], [0], BlobCorruptError),
        (0, 50_000, [FORBIDDEN], [0], RoleError),
        (0, 0, [BUSY, BUSY, BUSY], [0, 0, 0], ServerUnavailableError),
        (0, None, [b""], [0], None),
    ],
)
def test_upload_goes_on_where_it_stopped(
    tmp_path: Path,
    known: int,
    arrived: int | None,
    answers: list[bytes],
    offsets: list[int],
    error: type[FuseryError] | None,
) -> None:
    """The server is asked what it has after a failure; None stands for all of it."""
    (tmp_path / "blob").write_bytes(BLOB)
    left = list(answers)

    def answer(head: bytes, write: Write) -> None:
        if head.startswith(b"PUT"):
            write(left.pop(0))
        else:
            state = {"digest": ENTRY.sha256, "complete": arrived is None, "bytes": arrived or 0}
            write(response(json.dumps([state]).encode()))

    with lying(answer) as (server, heads):
        if error is None:
            blobs.upload(server, ENTRY, tmp_path / "blob", known, None)
        else:
            with pytest.raises(error):
                blobs.upload(server, ENTRY, tmp_path / "blob", known, None)
    sent = [head for head in heads if head.startswith(b"PUT")]
    assert [int(re.findall(rb"(?i)upload-offset: (\d+)", head)[0]) for head in sent] == offsets
    lengths = [int(re.findall(rb"(?i)content-length: (\d+)", head)[0]) for head in sent]
    assert lengths == [len(BLOB) - offset for offset in offsets]


@pytest.mark.parametrize(
    ("come", "offset"), [(BLOB[:1000], 1000), (BLOB, None), (BLOB + b"x", 0), (b"x" * 1000, 1000)]
)
def test_a_part_that_came_is_gone_on_with(tmp_path: Path, come: bytes, offset: int | None) -> None:
    (tmp_path / f"{ENTRY.sha256}.arriving").write_bytes(come)
    begins = list[int]()

    def answer(head: bytes, write: Write) -> None:
        found = re.search(rb"(?i)range: bytes=(\d+)-", head)
        begins.append(begin := int(found[1]) if found else 0)
        part = {"Content_Range": f"bytes {begin}-{len(BLOB) - 1}/{len(BLOB)}"} if begin else {}
        write(response(BLOB[begin:], 206 if begin else 200, **part))

    with lying(answer) as (server, _):
        blobs.download(server, ENTRY, tmp_path / "blob", tmp_path, None)
    assert (tmp_path / "blob").read_bytes() == BLOB
    # Other bytes than those of the blob are fetched again from the beginning.
    assert begins == [] if offset is None else begins[0] == offset


@pytest.mark.parametrize("digests", [[], ["0" * 64], [ENTRY.sha256, ENTRY.sha256]])
def test_answer_about_other_blobs_is_refused(tmp_path: Path, digests: list[str]) -> None:
    (tmp_path / "blob").write_bytes(BLOB)
    states = [{"digest": digest, "complete": False, "bytes": 0} for digest in digests]
    with (
        lying(lambda _, write: write(response(json.dumps(states).encode()))) as (server, _),
        pytest.raises(ServerRefusedError),
    ):
        blobs.send_files(server, {"blob": tmp_path / "blob"}, SILENT)


def test_file_of_another_size_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(BLOB[1:])
    with lying(lambda head, write: write(DONE)) as (server, heads), pytest.raises(BlobCorruptError):
        blobs.upload(server, ENTRY, tmp_path / "blob", 0, None)
    assert heads == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (BLOB[:-1] + b"x", BlobCorruptError),
        (BLOB[:-1], ServerUnavailableError),
        (BLOB + b"more", None),
    ],
)
def test_blob_of_a_lying_server(tmp_path: Path, data: bytes, error: type[FuseryError] | None) -> None:
    with lying(
        lambda head, write: write(response(data) if b"\nrange" not in head.lower() else response(b"", 200))
    ) as (
        server,
        _,
    ):
        if error is None:
            blobs.download(server, ENTRY, tmp_path / "blob", tmp_path, None)
            assert (tmp_path / "blob").read_bytes() == BLOB
        else:
            with pytest.raises(error):
                blobs.download(server, ENTRY, tmp_path / "blob", tmp_path, None)
            assert not (tmp_path / "blob").exists()


def test_endless_blob_ends_at_its_size(tmp_path: Path) -> None:
    sent: list[int] = []

    def endless(head: bytes, write: Write) -> None:
        write(response(BLOB, Content_Length=1 << 40))
        while True:
            write(bytes(0x10000))
            sent.append(0x10000)

    with lying(endless) as (server, _):
        blobs.download(server, ENTRY, tmp_path / "blob", tmp_path, None)
    assert (tmp_path / "blob").read_bytes() == BLOB
    assert sum(sent) < 64 << 20


def test_other_range_than_requested_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{ENTRY.sha256}.arriving").write_bytes(BLOB[:1000])
    other = response(BLOB[500:], 206, Content_Range=f"bytes 500-{len(BLOB) - 1}/{len(BLOB)}")
    with lying(lambda head, write: write(other)) as (server, heads), pytest.raises(ServerRefusedError):
        blobs.download(server, ENTRY, tmp_path / "blob", tmp_path, None)
    assert b"range: bytes=1000-" in heads[0].lower()


def test_error_cancels_other_transfers() -> None:
    """A transfer that waits for its server ends when another one fails."""
    waiting, ended = threading.Event(), threading.Event()
    answered = list[bool]()

    def answer(head: bytes, write: Write) -> None:
        if b"/slow" in head:
            waiting.set()
            answered.append(ended.wait(60))
        write(response(b"{}", 418))

    def transfer(name: str) -> None:
        if name == "fails":
            waiting.wait(60)
        server.request("GET", f"/{name}")

    with lying(answer) as (server, _), pytest.raises(ServerRefusedError):
        blobs.in_parallel(server, transfer, ["slow", "fails"])
    assert answered == []
    ended.set()
