"""Blobs between stores: verified on the way, whole or not at all, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from storage_backends import LocalBackend, MemoryBackend

from fusery.storage.backends.objects import Objects
from fusery.storage.digest import digest_bytes
from fusery.storage.failures import DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.manifest import FileEntry
from fusery.storage.transfer import transfer
from fusery.testing.stores import Backend, name_of

DATA = os.urandom(1 << 20) * 5 + b"tail"
ENTRY = FileEntry("weights", len(DATA), digest_bytes(DATA))
KINDS: dict[str, Callable[[Path], Backend]] = {"folder": LocalBackend, "objects": lambda _: MemoryBackend()}


@pytest.fixture(params=sorted(KINDS))
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return KINDS[request.param](tmp_path / "origin")


@pytest.fixture(params=sorted(KINDS))
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return KINDS[request.param](tmp_path / "target")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_a_blob_arrives_under_its_generation(origin: Backend, target: Backend, scratch: Path) -> None:
    origin.store.put_bytes(DATA, generation=2)
    before = origin.names()
    told: list[int] = []
    args = (origin.store, target.store, ENTRY, scratch)
    made = transfer(*args, from_generation=2, to_generation=7, progress=told.append)
    assert made == Blob(ENTRY.sha256, ENTRY.size, 7)
    assert target.read(name_of(ENTRY.sha256, 7)) == DATA
    assert sum(told) == len(DATA)
    assert origin.names() == before
    assert list(scratch.iterdir()) == []
    assert target.names() == {name_of(ENTRY.sha256, 7)}


def test_only_a_damaged_blob_is_replaced(origin: Backend, target: Backend, scratch: Path) -> None:
    origin.store.put_bytes(DATA)
    transfer(origin.store, target.store, ENTRY, scratch)
    names = target.names()
    transfer(origin.store, target.store, ENTRY, scratch)
    assert target.names() == names
    target.write(name_of(ENTRY.sha256), b"x" + DATA[1:])
    transfer(origin.store, target.store, ENTRY, scratch)
    assert target.read(name_of(ENTRY.sha256)) == DATA
    assert [target.read(name) for name in target.names() - names] == [b"x" + DATA[1:]]


@pytest.mark.parametrize(
    "wrong", [DATA[:-1], DATA + b"!", b"x" + DATA[1:], b""], ids=["short", "long", "flipped", "empty"]
)
def test_damaged_blob_does_not_arrive(origin: Backend, target: Backend, scratch: Path, wrong: bytes) -> None:
    origin.write(name_of(ENTRY.sha256), wrong)
    with pytest.raises(DigestMismatchError):
        transfer(origin.store, target.store, ENTRY, scratch)
    assert target.names() == set()
    assert list(scratch.iterdir()) == []


def test_wrong_bytes_are_read_again(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, target = MemoryBackend(), LocalBackend(tmp_path / "target")
    origin.store.put_bytes(DATA)
    pieces = Objects.pieces
    turns: list[str] = []

    def at_first_wrong(self: Objects, name: str, size: int, first: int) -> Iterator[tuple[int, bytes]]:
        turns.append(name)
        for wanted, piece in pieces(self, name, size, first):
            yield wanted, piece if len(turns) > 1 else bytes(len(piece))

    monkeypatch.setattr(Objects, "pieces", at_first_wrong)
    transfer(origin.store, target.store, ENTRY, scratch)
    assert len(turns) == 2
    assert target.read(name_of(ENTRY.sha256)) == DATA
