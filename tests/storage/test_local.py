"""The local store: the contract, and what only a folder can be asked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from storage_backends import LocalBackend

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.local import LocalStore
from fusery.testing.stores import HELLO, LARGE, StoreContract, file_with, name_of


@pytest.fixture
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    return LocalBackend(tmp_path_factory.mktemp("store"))


class TestLocalStore(StoreContract):
    pass


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "not" / "yet")
    assert list(store.blobs()) == []
    assert store.identify() is None
    assert not (tmp_path / "not").exists()


def test_the_root_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = LocalStore(Path("store"))
    monkeypatch.chdir(tmp_path)
    store.put_bytes(HELLO)
    assert (tmp_path / "here" / "store" / name_of(digest_bytes(HELLO))).is_file()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalStore(Path("~/store")).root == tmp_path.resolve() / "store"


@pytest.mark.parametrize("kind", ["folder", "full folder", "link", "pipe"])
def test_what_is_no_file_at_a_blobs_name_is_damage(backend: LocalBackend, tmp_path: Path, kind: str) -> None:
    blob = backend.store.put_bytes(HELLO)
    path = backend.root / name_of(blob.digest)
    path.unlink()
    if kind == "link":
        path.symlink_to(file_with(tmp_path, HELLO))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    if kind == "full folder":
        (path / "inside").write_bytes(HELLO)
    assert list(backend.store.blobs()) == []
    assert backend.store.local_path(blob.digest) is None
    with pytest.raises(DigestMismatchError):
        backend.store.read_bytes(blob.digest, limit=1 << 20)
    with pytest.raises(DigestMismatchError):
        backend.store.fetch(blob.digest, tmp_path / "out.bin")
    assert backend.store.put_bytes(HELLO) == blob
    assert backend.store.read_bytes(blob.digest, limit=100) == HELLO


def test_a_file_that_grows_while_it_is_read_is_refused(backend: LocalBackend, tmp_path: Path) -> None:
    source = file_with(tmp_path, LARGE)

    def grow(_count: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(StorageError) as caught:
        backend.store.put_file(source, progress=grow)
    assert caught.value.code == "storage"
    assert list(backend.store.blobs()) == []
    assert list(backend.store.leftovers()) == []


def test_store_without_hard_links(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # Stand in for a file system without hard links: the kernel gives this error on exFAT.
    monkeypatch.setattr(os, "link", refuse)
    blob = backend.store.put_file(file_with(tmp_path, LARGE))
    assert backend.store.put_file(file_with(tmp_path, LARGE)) == blob
    backend.write(name_of(blob.digest), b"damaged")
    assert backend.store.put_bytes(LARGE) == blob
    assert backend.read(name_of(blob.digest)) == LARGE
    assert len(list(backend.store.quarantined())) == 1
    backend.store.initialise("registry-one")
    assert backend.store.identify() == "registry-one"


@pytest.mark.parametrize(
    ("umask", "blobs", "document"), [(0o022, 0o444, 0o644), (0o027, 0o440, 0o640), (0o077, 0o400, 0o600)]
)
def test_modes_follow_the_umask(tmp_path: Path, umask: int, blobs: int, document: int) -> None:
    before = os.umask(umask)
    try:
        store = LocalStore(tmp_path / "store")
        store.initialise("id")
        made = [store.put_bytes(HELLO), store.put_file(file_with(tmp_path, LARGE))]
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((store.root / name_of(blob.digest)).stat().st_mode) for blob in made]
    assert modes == [blobs, blobs]
    assert stat.S_IMODE((store.root / "format.json").stat().st_mode) == document
