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

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[int, int]]:
    (tmp_path / "source").write_bytes(CONTENT)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the system has no copy_file_range")
def test_a_range_is_copied_to_its_place(both: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert copy_range(*both, 1001, 77, 1_000_003)
    assert os.pread(both[1], 2_000_000, 77) == CONTENT[1001:1_001_004]
    assert os.pread(both[1], 77, 0) == bytes(77)
    assert not copy_range(*both, len(CONTENT) - 10, 0, 20), "a source that ends before is left to reading"

    for code in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOSPC):

        def refuse(*_: Any, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "copy_file_range", refuse)
        if code != errno.ENOSPC:
            assert not copy_range(*both, 0, 0, 10), "what the system cannot do"
    with pytest.raises(OSError) as caught:
        copy_range(*both, 0, 0, 10)
    assert caught.value.errno == errno.ENOSPC


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
