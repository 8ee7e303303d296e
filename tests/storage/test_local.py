"""The local store: the contract, and what only a folder can be asked."""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from storage_backends import LocalBackend

from fusery.storage import local as local_store
from fusery.storage import publishing, safetensors
from fusery.storage.cache_space import locked
from fusery.storage.copying import copy_file, reading
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FormatError, StorageError, StoreUnavailableError
from fusery.storage.failures import AbsentBlobError, DigestMismatchError, opened
from fusery.storage.interface import Blob
from fusery.storage.layout import document_name
from fusery.storage.local import LocalStore
from fusery.storage.locate import open_store
from fusery.storage.manifest import FileEntry
from fusery.storage.safetensors import build_header, digest_tensors, read_header
from fusery.storage.verified_files import VerifiedFiles, Watch
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


DATA = bytes(range(100))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_digests_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(safetensors, "CHUNK", chunk)
    path, told = tmp_path / "t.safetensors", list[int]()
    sizes = {"a": 0, "b": 20, "c": 0, "d": 80, "e": 0}
    start = build_header([(name, "U8", (size,)) for name, size in sizes.items()])
    path.write_bytes(start + DATA)
    header = read_header(path)
    digest, tensors = digest_tensors(path, header, progress=told.append)
    expected = {"a": b"", "b": DATA[:20], "c": b"", "d": DATA[20:], "e": b""}
    assert tensors == {name: digest_bytes(data) for name, data in expected.items()}
    assert (digest, header.size) == (digest_bytes(start + DATA), len(start) + 100)
    assert sum(told) == header.size and max(told) <= chunk
    path.write_bytes(start + DATA[:-1])
    with pytest.raises(FormatError):
        digest_tensors(path, header)


def test_files_that_are_written_or_are_other_ones(backend: LocalBackend, tmp_path: Path) -> None:
    other, blob = HELLO[::-1], backend.store.put_bytes(HELLO)
    backend.store.put_bytes(other)
    with pytest.raises(DigestMismatchError):
        backend.store.put_file(file_with(tmp_path, other), expected=FileEntry("", blob.size, blob.digest))
    with file_with(tmp_path, LARGE).open("r+b", buffering=0) as file:
        file.seek(3)
        backend.store.pour_into(blob, file.fileno())
    assert Path(file.name).read_bytes() == HELLO
    backend.store.initialise("registry-one")
    backend.root.chmod(0o750)
    backend.store.write_document("audit.json", b"{}")
    assert backend.root.joinpath(document_name("audit.json")).stat().st_mode & 0o777 == 0o640


def test_damage_is_replaced_without_a_moment_in_which_the_name_is_free(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "quarantine", lambda *_, **__: pytest.fail("the name was free"))
    blob = backend.store.put_bytes(HELLO)
    backend.write(name_of(blob.digest), b"damaged")
    assert backend.store.put_bytes(HELLO) == blob
    assert backend.read(name_of(blob.digest)) == HELLO


def test_pieces_of_a_blob(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_store, "CHUNK", 7)
    local = LocalStore(tmp_path / "store")
    for store in (local, open_store(f"memory://{uuid.uuid4().hex}")):
        blob = store.put_file(file)
        for start, stop in ((0, 100), (3, 50), (99, 100), (5, 5)):
            assert b"".join(store.span(blob, start, stop)) == DATA[start:stop]
        with pytest.raises(AbsentBlobError):
            list(store.span(Blob(digest_bytes(b""), 1, 0), 0, 1))
    with pytest.raises(StoreUnavailableError):
        list(local.span(blob, 90, 101))


def test_no_descriptor_stays_open(tmp_path: Path, file: Path) -> None:
    pipe, public, gone = tmp_path / "pipe", tmp_path / "public", tmp_path / "gone"
    os.mkfifo(pipe)
    public.mkdir(mode=0o777)
    public.chmod(0o777)
    file.chmod(0o666)

    def use() -> None:
        for path in (file, pipe, tmp_path, gone):
            for manager in (reading, opened):
                with suppress(StorageError), manager(path):  # type: ignore[operator]
                    pass
        for alone in (False, True):
            for folder in (tmp_path, gone):
                with locked(folder, alone=alone) as is_held, locked(folder, alone=True) as is_held_twice:
                    assert (is_held, is_held_twice) == ((None, None) if folder is gone else (True, False))
        for folder in (tmp_path, public):
            VerifiedFiles(folder).has_all("0" * 64, digest_bytes(b""), {})
        publishing.write_atomically(tmp_path / "new", b"x")
        copy_file(file, tmp_path / "copy")
        (tmp_path / "copy").unlink()
        Watch({"file": file})

    use()
    before = sorted(os.listdir("/dev/fd"))
    use()
    assert sorted(os.listdir("/dev/fd")) == before


def test_what_is_written_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[bool]()  # for each call, whether it was of a folder
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.path.isdir(f"/dev/fd/{fd}")))
    publishing.make_folders(tmp_path / "a" / "b")
    publishing.write_atomically(tmp_path / "a" / "x", b"data")
    publishing.publish_folder(tmp_path / "a" / "b", tmp_path / "c")
    assert synced == [True, True, False, True, True]


def test_a_document_gets_its_name_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process leaves of one is a leftover, and no stranger."""
    store, replace, seen = LocalStore(tmp_path), Path.replace, list[tuple[list[str], int]]()

    def look(part: Path, target: Path) -> Path:
        seen.append((list(store.strays()), len(list(store.leftovers()))))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", look)
    store.write_document("package.json", b"{}")
    assert seen == [([], 1)]
    assert store.read_document("package.json") == b"{}"
