"""Ranges of files: copied by the system where it can, and by reading and writing where it cannot."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry.engine import files
from fusery.registry.engine.files import copy_range

in_kernel = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the system has no copy_file_range")
CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(CONTENT)
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@in_kernel
def test_a_range_is_copied_to_its_place(source: int, target: int) -> None:
    assert copy_range(source, target, 1001, 77, 1_000_003)
    assert os.pread(target, 2_000_000, 77) == CONTENT[1001:1_001_004]
    assert os.pread(target, 77, 0) == bytes(77)


@in_kernel
def test_a_source_that_ends_before_is_left_to_reading(source: int, target: int) -> None:
    assert not copy_range(source, target, len(CONTENT) - 10, 0, 20)


@in_kernel
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_what_the_system_cannot_do(
    code: int, source: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", raising(code))
    assert not copy_range(source, target, 0, 0, 10)


@in_kernel
def test_a_full_disk_is_told(source: int, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", raising(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        copy_range(source, target, 0, 0, 10)


def raising(code: int) -> Callable[..., int]:
    def copy_file_range(*arguments: Any) -> int:
        raise OSError(code, os.strerror(code))

    return copy_file_range


def test_a_fuse_is_the_same_without(
    tmp_path: Path, our_fuse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=4)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    folder, expected = our_fuse(base, adapter)
    folder.rename(tmp_path / "before")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    assert not files.copy_range(0, 0, 0, 0, 0)
    _, fused = our_fuse(base, adapter)
    assert fused.files == expected.files
