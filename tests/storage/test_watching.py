"""Seeing every change of a file: leases, flushes, and file systems that do not show a write through a mapping."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from fusery.storage import watching
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.watching import Watch, is_unopened, settle, shows_mapped_writes, verified, watched

pytestmark = pytest.mark.timing

DATA = os.urandom(20_000)
MANIFEST = Manifest.of([FileEntry("f", len(DATA), digest_bytes(DATA))])
linux = pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def in_memory() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "f"
        path.write_bytes(DATA)
        yield path


@linux
def test_whether_somebody_could_write_is_told_by_the_kernel(file: Path) -> None:
    assert is_unopened(file)
    with file.open("rb"):
        assert is_unopened(file)
    with file.open("r+b") as opened:
        assert not is_unopened(file)
        memory = mmap.mmap(opened.fileno(), 0)
    assert not is_unopened(file)  # the descriptor is closed, the mapping is not
    memory.close()
    assert is_unopened(file)


WRITER = """
import sys
for _ in range(2_000):
    open(sys.argv[1], "r+b").close()
"""
ASKING = """
import sys
from pathlib import Path
from fusery.storage.watching import is_unopened
for _ in range(2_000):
    is_unopened(Path(sys.argv[1]))
"""


@linux
def test_asking_harms_neither_who_asks_nor_who_writes(file: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-P", "-c", text, str(file)]) for text in (WRITER, ASKING)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]


def test_which_file_systems_show_mapped_writes(file: Path, in_memory: Path) -> None:
    assert not shows_mapped_writes(in_memory)
    assert not settle([in_memory])
    assert not Watch({"f": in_memory}).certain
    if shows_mapped_writes(file):  # false if the temporary folder is in memory too
        assert Watch({"f": file}).certain
    assert os.listdir(in_memory.parent) == ["f"]
    assert os.listdir(file.parent) == ["f"]


def test_try_a_file_system_in_another_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows = shows_mapped_writes(file)
    monkeypatch.setattr(watching, "_SHOWN", {})

    def refuse(folder: Path) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(folder))

    monkeypatch.setattr(watching, "_nameless", refuse)
    assert not shows_mapped_writes(file)
    assert not shows_mapped_writes(file, Path("/proc"))
    assert not shows_mapped_writes(file, tmp_path / "nothing")
    (tmp_path / "ours").mkdir()
    assert shows_mapped_writes(file, tmp_path / "ours") is shows
    assert os.listdir(tmp_path / "ours") == []


def test_a_write_through_a_page_that_was_dirty_before_shows_in_the_times(file: Path) -> None:
    if not shows_mapped_writes(file):
        pytest.skip("this file system does not")
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        memory[0] = memory[0]
        watch = Watch({"f": file})
        assert (watch.certain, watch.changed()) == (True, [])
        memory[0] ^= 1
        assert watch.changed() == ["f"]
        with pytest.raises(StorageError) as caught:
            watch.require_unchanged()
        assert caught.value.code == "storage"


def test_what_changes_while_it_is_read_is_refused(file: Path) -> None:
    with pytest.raises(StorageError) as caught, verified({"f": file}, MANIFEST):
        file.write_bytes(DATA[::-1])
    assert caught.value.code == "storage"


def test_where_changes_do_not_show_it_is_hashed_once_more(in_memory: Path) -> None:
    with in_memory.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        assert bytes(memory) == DATA
        with watched({"f": in_memory}, MANIFEST) as watch:
            assert not watch.certain
        with pytest.raises(DigestMismatchError), verified({"f": in_memory}, MANIFEST):
            memory[0] ^= 1
