"""Parts of blobs and files, and what must not stay behind: open descriptors, and names that are not durable."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from fusery.storage import pieces, publishing, tensor_digests
from fusery.storage.copying import copy_file, reading
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FormatError, StorageError, StoreUnavailableError
from fusery.storage.failures import AbsentBlobError
from fusery.storage.interface import Blob
from fusery.storage.local import LocalStore
from fusery.storage.locate import open_store
from fusery.storage.opening import opened
from fusery.storage.pieces import read_pieces
from fusery.storage.private import private_folder, read_private
from fusery.storage.reading_locks import alone, shared
from fusery.storage.safetensors import build_header, read_header
from fusery.storage.tensor_digests import digest_tensors
from fusery.storage.watching import Watch, is_unopened

DATA = bytes(range(100))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_digests_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(tensor_digests, "CHUNK", chunk)
    path, told = tmp_path / "t.safetensors", list[int]()
    sizes = {"a": 0, "b": 20, "c": 0, "d": 80, "e": 0}
    start = build_header([(name, "U8", (size,)) for name, size in sizes.items()])
    path.write_bytes(start + DATA)
    header = read_header(path)
    found = digest_tensors(path, header, progress=told.append)
    expected = {"a": b"", "b": DATA[:20], "c": b"", "d": DATA[20:], "e": b""}
    assert found.tensors == {name: digest_bytes(data) for name, data in expected.items()}
    assert (found.digest, found.size) == (digest_bytes(start + DATA), len(start) + 100)
    assert sum(told) == found.size and max(told) <= chunk
    path.write_bytes(start + DATA[:-1])
    with pytest.raises(FormatError):
        digest_tensors(path, header)


def test_pieces_of_a_blob(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CHUNK", 7)
    local = LocalStore(tmp_path / "store")
    for store in (local, open_store(f"memory://{uuid.uuid4().hex}")):
        blob = store.put_file(file)
        for start, stop in ((0, 100), (3, 50), (99, 100), (5, 5)):
            assert b"".join(read_pieces(store, blob, start, stop)) == DATA[start:stop]
        with pytest.raises(AbsentBlobError):
            list(read_pieces(store, Blob(digest_bytes(b""), 1, 0), 0, 1))
    with pytest.raises(StoreUnavailableError):
        list(read_pieces(local, blob, 90, 101))


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
        for lock in (shared, alone):
            for folder in (tmp_path, gone):
                with lock(folder) as free, alone(folder):
                    assert free or folder is gone
        for folder in (tmp_path, public):
            with suppress(StorageError), private_folder(folder) as fd, suppress(OSError):
                read_private(fd, "file", 10)
        publishing.write_atomically(tmp_path / "new", b"x")
        copy_file(file, tmp_path / "copy")
        (tmp_path / "copy").unlink()
        is_unopened(file)
        Watch({"file": file}, near=tmp_path)

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
