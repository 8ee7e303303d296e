from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.vouchers import Vouchers
from fusery.storage.watching import Watch

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
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"W")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert not vouchers.hold(file, DIGEST)


def test_a_copy_in_its_place_ends_it(vouchers: Vouchers, file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)
    assert not vouchers.hold(file, DIGEST)
    file.unlink()
    assert not vouchers.hold(file, DIGEST)


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
