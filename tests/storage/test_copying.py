"""Copies: hashed on the way, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import time
from pathlib import Path

import pytest

from fusery.storage import copying
from fusery.storage.copying import CHUNK, Method, copy_file, pump, reading
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import OutOfSpaceError, StorageError
from fusery.storage.failures import DigestMismatchError

SHA256 = hashlib.sha256
SIZES = [0, 1, CHUNK, 11 * CHUNK + 5]


def source_of(tmp_path: Path, size: int) -> tuple[Path, bytes]:
    data = os.urandom(min(size, 1 << 16)) * (size // (1 << 16) + 1)
    path = tmp_path / "source"
    path.write_bytes(data[:size])
    return path, data[:size]


@pytest.mark.parametrize("size", SIZES)
def test_pump_copies_hashes_and_counts(tmp_path: Path, size: int) -> None:
    path, data = source_of(tmp_path, size)
    steps: list[int] = []
    with reading(path) as source, (tmp_path / "target").open("w+b") as target:
        assert pump(source.fd, target.fileno(), progress=steps.append) == (digest_bytes(data), size)
    with reading(path) as source:
        assert pump(source.fd, None) == (digest_bytes(data), size)
    assert (tmp_path / "target").read_bytes() == data
    assert sum(steps) == size


@pytest.mark.parametrize("every", [2, 5], ids=["with more to come", "at the end"])
def test_failed_early_flush_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path, _ = source_of(tmp_path, 6 * CHUNK)
    monkeypatch.setattr(copying, "SYNC_EVERY", every * CHUNK)
    monkeypatch.setattr(copying, "_start_flush", fail)
    with (
        reading(path) as source,
        (tmp_path / "target").open("w+b") as target,
        pytest.raises(OSError) as caught,
    ):
        pump(source.fd, target.fileno())
    assert caught.value.errno == errno.EIO


def test_a_clone_is_hashed_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(_source: int, target: int) -> bool:
        os.pwrite(target, b"cloned", 0)
        return True

    path, _ = source_of(tmp_path, 100)
    monkeypatch.setattr(copying, "clone", pretend)
    with reading(path) as source, (tmp_path / "target").open("w+b") as target:
        assert pump(source.fd, target.fileno()) == (digest_bytes(b"cloned"), 6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checked", [True, False])
def test_a_copy_has_the_same_bytes_and_is_its_own_file(tmp_path: Path, size: int, checked: bool) -> None:
    path, data = source_of(tmp_path, size)
    path.chmod(0o444)
    method = copy_file(path, tmp_path / "copy", expected=digest_bytes(data) if checked else None)
    assert method in (Method.COPY, Method.REFLINK)
    assert (tmp_path / "copy").read_bytes() == data
    found = (tmp_path / "copy").stat()
    assert (found.st_nlink, found.st_mode & 0o200) == (1, 0o200)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]


def test_a_link_is_made_only_on_request(tmp_path: Path) -> None:
    path, data = source_of(tmp_path, 100)
    assert copy_file(path, tmp_path / "link", link=True, expected=digest_bytes(data)) is Method.LINK
    assert (tmp_path / "link").samefile(path)


def test_where_no_link_can_be_made_a_copy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 3 * CHUNK)
    real, first = os.link, [True]

    def refuse(*arguments: str, **options: bool) -> None:
        if first.pop() if first else False:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(*arguments, **options)

    monkeypatch.setattr(os, "link", refuse)
    assert copy_file(path, tmp_path / "copy", link=True) is not Method.LINK
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("link", [True, False])
def test_a_copy_of_other_bytes_than_expected_is_not_made(tmp_path: Path, link: bool) -> None:
    path, _ = source_of(tmp_path, 3 * CHUNK)
    with pytest.raises(DigestMismatchError):
        copy_file(path, tmp_path / "copy", link=link, expected=digest_bytes(b"other"))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path, _ = source_of(tmp_path, 100)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OutOfSpaceError):
        copy_file(path, tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.timing
def test_source_written_after_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 3 << 20)
    real = os.copy_file_range
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[1000] = memory[1000]

        def meddle(source: int, target: int, count: int) -> int:
            time.sleep(0.2)  # time enough to read the source to its end
            memory[1000] ^= 1
            return real(source, target, count)

        monkeypatch.setattr(os, "copy_file_range", meddle)
        with pytest.raises(DigestMismatchError):
            copy_file(path, tmp_path / "copy", expected=digest_bytes(data))
    assert not (tmp_path / "copy").exists()


def test_link_to_a_replaced_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 1000)
    other = tmp_path / "other"
    other.write_bytes(bytes(1000))
    real = os.link

    def meddle(source: Path, target: Path, **options: bool) -> None:
        other.replace(path)
        real(source, target, **options)

    monkeypatch.setattr(os, "link", meddle)
    with pytest.raises(StorageError) as caught:
        copy_file(path, tmp_path / "copy", link=True, expected=digest_bytes(data))
    assert caught.value.code == "storage"
    assert not (tmp_path / "copy").exists()


def test_without_the_kernels_copy_ours_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = source_of(tmp_path, 9 * CHUNK + 3)
    real, calls = os.copy_file_range, []

    def tired(source: int, target: int, count: int) -> int:
        calls.append(count)
        if len(calls) > 2:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(source, target, min(count, CHUNK))

    monkeypatch.setattr(os, "copy_file_range", tired)
    copy_file(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    with pytest.raises(StorageError):
        copy_file(path, tmp_path / "copy")
