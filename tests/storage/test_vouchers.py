"""Vouchers, watched files and private folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import MissingFileError, StorageError, StoreDeniedError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.vouchers import Vouchers, Watch, private_folder, read_private, verified

pytestmark = pytest.mark.timing


DATA = b"weights" * 1000
DIGEST = digest_bytes(DATA)
NAME = "model.safetensors"


def watch(file: Path) -> Watch:
    return Watch({NAME: file})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def vouchers(tmp_path: Path, file: Path) -> Vouchers:
    """Vouchers that hold for the file."""
    made = Vouchers(tmp_path / "vouchers")
    assert not made.hold(file, DIGEST)
    made.note(watch(file), NAME, DIGEST)
    assert made.hold(file, DIGEST)
    assert not made.hold(file, Digest("0" * 64))
    return made


def test_a_write_of_the_same_size_ends_it_even_with_its_time_set_back(vouchers: Vouchers, file: Path) -> None:
    before, watching = file.stat(), watch(file)
    assert watching.changed() == []
    with file.open("r+b") as opened:
        opened.write(b"W")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert not vouchers.hold(file, DIGEST)
    assert watching.changed() == [NAME]
    with pytest.raises(StorageError):
        watching.require_unchanged()


def test_a_copy_in_its_place_ends_it(vouchers: Vouchers, file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)
    assert not vouchers.hold(file, DIGEST)
    watching = watch(file)
    file.unlink()
    assert not vouchers.hold(file, DIGEST)
    assert watching.changed() == [NAME]


def test_a_file_that_changed_while_it_was_hashed_gets_none(tmp_path: Path, file: Path) -> None:
    made = Vouchers(tmp_path / "vouchers")
    watching = watch(file)
    file.write_bytes(DATA[::-1])
    made.note(watching, NAME, digest_bytes(DATA[::-1]))
    assert not made.hold(file, digest_bytes(DATA[::-1]))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"version": 1, "files": {"file": [1]}}'])
def test_a_damaged_voucher_is_none(vouchers: Vouchers, file: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vouchers" / f"{DIGEST}.json").write_bytes(content)
    assert not vouchers.hold(file, DIGEST)


def test_where_none_can_be_written_nothing_fails(tmp_path: Path, file: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    made = Vouchers(tmp_path / "taken")
    made.note(watch(file), NAME, DIGEST)
    assert not made.hold(file, DIGEST)


MANIFEST = Manifest.of([FileEntry(NAME, len(DATA), DIGEST)])


def test_what_changes_while_it_is_read_is_refused(file: Path) -> None:
    with pytest.raises(StorageError) as caught, verified({NAME: file}, MANIFEST):
        file.write_bytes(DATA[::-1])
    assert caught.value.code == "storage"
    with pytest.raises(DigestMismatchError), verified({NAME: file}, MANIFEST):
        raise AssertionError("the block must not run")


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "private"
    with private_folder(path, make=True):
        pass
    return path


def read(folder: Path, name: str = "note") -> bytes:
    with private_folder(folder) as opened:
        return read_private(opened, name, 3)


def test_it_is_made_for_nobody_else(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "note").write_bytes(b"mine")
    assert read(folder) == b"min"


def test_one_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read(tmp_path / "nothing")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_one_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(StoreDeniedError):
        read(folder)


@root
def test_one_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, -1)
    with pytest.raises(StoreDeniedError):
        read(folder)


def test_a_file_that_others_may_write_and_a_link_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "note").write_bytes(b"mine")
    (folder / "note").chmod(0o666)
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("note", "link"):
        with pytest.raises(OSError):
            read(folder, name)
