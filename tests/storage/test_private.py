"""Folders of one user's own: what others could have written is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import MissingFileError, StoreDeniedError
from fusery.storage.private import private_folder, read_private

DATA = b"weights"
DIGEST = digest_bytes(DATA)
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
