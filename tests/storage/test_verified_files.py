"""Notes of verified files, and watched files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import StorageError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.verified_files import VerifiedFiles, Watch, verified

pytestmark = pytest.mark.timing

DATA = b"weights" * 1000
DIGEST = digest_bytes(DATA)
NAME = "model.safetensors"
MANIFEST = Manifest.of([FileEntry(NAME, len(DATA), DIGEST)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(DATA)
    return path


@pytest.fixture
def notes(tmp_path: Path, file: Path) -> VerifiedFiles:
    """Notes that the file is verified."""
    made = VerifiedFiles(tmp_path / "home" / "verified")
    assert not made.has(file, DIGEST)
    assert not made.root.exists(), "nothing is made by reading"
    made.record(Watch({NAME: file}), NAME, DIGEST)
    assert made.has(file, DIGEST)
    assert not made.has(file, Digest("0" * 64))
    assert made.root.stat().st_mode & 0o777 == 0o700
    return made


def test_a_write_of_the_same_size_ends_it_even_with_its_time_set_back(
    notes: VerifiedFiles, file: Path
) -> None:
    before, watch = file.stat(), Watch({NAME: file})
    assert watch.changed() == []
    with file.open("r+b") as opened:
        opened.write(b"W")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert not notes.has(file, DIGEST)
    assert watch.changed() == [NAME]
    with pytest.raises(StorageError):
        watch.require_unchanged()


def test_a_copy_in_its_place_ends_it(notes: VerifiedFiles, file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)
    assert not notes.has(file, DIGEST)
    watch = Watch({NAME: file})
    file.unlink()
    assert not notes.has(file, DIGEST)
    assert watch.changed() == [NAME]


def test_a_file_that_changed_while_it_was_hashed_is_not_recorded(tmp_path: Path, file: Path) -> None:
    made, watch = VerifiedFiles(tmp_path / "verified"), Watch({NAME: file})
    file.write_bytes(DATA[::-1])
    made.record(watch, NAME, digest_bytes(DATA[::-1]))
    assert not made.has(file, digest_bytes(DATA[::-1]))
    with pytest.raises(StorageError) as caught, verified({NAME: file}, MANIFEST):
        raise AssertionError("the block must not run")
    assert isinstance(caught.value, DigestMismatchError)
    file.write_bytes(DATA)
    with pytest.raises(StorageError) as caught, verified({NAME: file}, MANIFEST):
        file.write_bytes(DATA[::-1])
    assert caught.value.code == "storage"


def test_damaged_notes_and_notes_that_others_may_write_do_not_count(
    notes: VerifiedFiles, file: Path, tmp_path: Path
) -> None:
    note = notes.root / f"{DIGEST}.json"
    good = note.read_bytes()
    for mode in (0o770, 0o707, 0o777, 0o1777):
        notes.root.chmod(mode)
        assert not notes.has(file, DIGEST), oct(mode)
    notes.root.chmod(0o700)
    note.chmod(0o666)
    assert not notes.has(file, DIGEST)
    note.chmod(0o600)
    assert notes.has(file, DIGEST)
    if os.geteuid() == 0:  # only root gives files away
        os.chown(notes.root, 12345, -1)
        assert not notes.has(file, DIGEST)
        os.chown(notes.root, 0, -1)
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"version": 1, "files": {"file": [1]}}'):
        note.write_bytes(content)
        assert not notes.has(file, DIGEST)
    (tmp_path / "note").write_bytes(good)
    note.unlink()
    note.symlink_to(tmp_path / "note")
    assert not notes.has(file, DIGEST)


def test_if_no_note_can_be_written_nothing_fails(tmp_path: Path, file: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    made = VerifiedFiles(tmp_path / "taken")
    made.record(Watch({NAME: file}), NAME, DIGEST)
    assert not made.has(file, DIGEST)
