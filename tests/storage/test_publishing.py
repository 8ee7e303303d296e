"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from fusery.storage import publishing
from fusery.storage.errors import MissingFileError, OutOfSpaceError, StorageError
from fusery.storage.publishing import (
    link_exclusive,
    new_part,
    publish_folder,
    write_all,
    write_atomically,
)

pytestmark = pytest.mark.timing


def folder_with(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_small_file_is_written_and_replaced(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", b"one")
    write_atomically(tmp_path / "f", b"two", mode=0o600)
    assert (tmp_path / "f").read_bytes() == b"two"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == {"f"}


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_atomically(tmp_path / "f", b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutOfSpaceError):
        write_atomically(tmp_path / "f", b"new")
    monkeypatch.undo()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == {"f"}


def test_all_is_written_however_little_a_call_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with new_part(tmp_path / "part") as (path, fd):
        write_all(fd, b"0123456789")
        assert path.read_bytes() == b"0123456789"


def test_rename_instead_of_link_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "part").write_bytes(b"new")
    (tmp_path / "final").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        link_exclusive(tmp_path / "part", tmp_path / "final")
    link_exclusive(tmp_path / "part", tmp_path / "free")
    assert (tmp_path / "final").read_bytes() == b"old"
    assert (tmp_path / "free").read_bytes() == b"new"


def make(out: Path, kind: str) -> None:
    if kind == "folder":
        folder_with(out, old="old")
    elif kind == "empty folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("old")
    elif kind == "link":
        folder_with(out.parent / "elsewhere", old="old")
        out.symlink_to("elsewhere")
    else:
        out.symlink_to("nowhere")


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "dangling link"])
@pytest.mark.parametrize("atomic", [True, False], ids=["exchange", "two renames"])
def test_a_name_that_is_taken_is_refused_or_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, atomic: bool
) -> None:
    temp, out = folder_with(tmp_path / "temp", f="new"), tmp_path / "out"
    make(out, kind)
    with pytest.raises(StorageError) as caught:
        publish_folder(temp, out)
    assert "--force" in str(caught.value.hint)
    assert (temp / "f").read_text() == "new"
    assert os.path.lexists(out)
    if not atomic:
        monkeypatch.setattr(publishing, "_exchange", lambda _first, _second: False)
    publish_folder(temp, out, replace=True)
    assert not out.is_symlink()
    assert names(out) == {"f"}
    # The target of a link is kept.
    assert names(tmp_path) == ({"out", "elsewhere"} if kind == "link" else {"out"})
    assert kind != "link" or (tmp_path / "elsewhere" / "old").read_text() == "old"


def test_failed_second_rename_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder_with(tmp_path / "out", old="old")
    monkeypatch.setattr(publishing, "_exchange", lambda _first, _second: False)
    with pytest.raises(MissingFileError):
        publish_folder(tmp_path / "never-made", out, replace=True)
    assert (out / "old").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_a_folder_that_is_replaced_is_always_there(tmp_path: Path) -> None:
    out, stop, missing = folder_with(tmp_path / "out", f="0"), threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            if not out.exists():
                missing.append(True)

    if not publishing._exchange(folder_with(tmp_path / "a"), folder_with(tmp_path / "b")):
        pytest.skip("this file system cannot exchange two names")
    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(30):
        publish_folder(folder_with(tmp_path / f"temp-{number}", f=str(number)), out, replace=True)
    stop.set()
    watcher.join()
    assert missing == []
    assert (out / "f").read_text() == "29"


@pytest.mark.parametrize("taken", [True, False])
def test_a_name_that_is_taken_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    temp, real = folder_with(tmp_path / "temp", f="new"), os.rename

    def rename(source: Path, target: Path) -> None:
        folder_with(target, f="other")
        if not taken:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StorageError) as caught:
        publish_folder(temp, tmp_path / "out")
    assert ("--force" in str(caught.value.hint)) == taken
    assert (temp / "f").read_text() == "new"
