from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import tiny_models
from tensor_files import rewrite

from fusery.registry.engine import files
from fusery.registry.engine.arithmetic import FORMATS, encode
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.files import copy_range
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.engine.recipe import DITHER, KEEP, MIXED
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import BlobCorruptError, MissingFileError, OutOfSpaceError, StorageError
from fusery.storage.safetensors import read_header

from .conftest import OurFuse, Planner

_UP = "model.layers.2.mlp.up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_report_lists_every_file_with_its_digest(base: Path, adapter: Path, our_fuse: OurFuse) -> None:
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool.jinja").write_text("x")
    folder, fused = our_fuse(base, adapter)
    written = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert [entry.path for entry in fused.files] == sorted(written)
    for entry in fused.files:
        assert entry.size == (folder / entry.path).stat().st_size
        assert entry.sha256 == sha256(folder / entry.path)
    assert {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"} <= {
        entry.path for entry in fused.files
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    read_header(folder / "model.safetensors")


POLICIES = {
    "keep": WritePolicy(KEEP),
    "dither": WritePolicy(DITHER, seed=9),
    "mixed": WritePolicy(MIXED, {"": 6}),
    "mxfp8": WritePolicy(KEEP, quantize=Quantize(8, 32, "mxfp8")),
}


@pytest.mark.parametrize(
    ("bits", "kind", "name"),
    [
        *((4, "lora", name) for name in ("dither", "mixed", "mxfp8")),
        (None, "lora", "keep"),
        (4, "dora", "keep"),
    ],
)
def test_bytes_and_figures_do_not_depend_on_threads_or_shards(
    bits: int | None, kind: Literal["lora", "dora"], name: str, tmp_path: Path, our_fuse: OurFuse
) -> None:
    # Wide enough for several blocks to a module.
    base = tiny_models.make_base(
        tmp_path / "wide", bits=bits, hidden=512, intermediate=2048, vocab=259, layers=1
    )
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, rank=3, fine_tune_type=kind)
    policy = POLICIES[name]
    first_folder, first = our_fuse(base, adapter, policy, threads=1, name="by-1")
    _, other = our_fuse(base, adapter, policy, threads=5, name="by-5")
    assert (other.files, other.fidelity) == (first.files, first.fidelity)
    sharded, _ = our_fuse(base, adapter, policy, shard=1 << 20, name="sharded")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert tiny_models.read_tensors(sharded) == tiny_models.read_tensors(first_folder)


def test_the_base_is_verified(
    base: Path, adapter: Path, folder: Path, planned: Planner, tmp_path: Path
) -> None:
    expected = {path.name: sha256(path) for path in base.iterdir()}
    plan = planned(base, adapter)
    assert fuse(plan, folder, expected=expected).files
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        other = tmp_path / f"other-{name}"
        other.mkdir()
        with pytest.raises(BlobCorruptError, match=name):
            fuse(plan, other, expected=expected | {name: "0" * 64})


def test_a_base_that_changes_meanwhile(base: Path, adapter: Path, folder: Path, planned: Planner) -> None:
    weights = base / "model.safetensors"
    data, plan = weights.read_bytes(), planned(base, adapter)
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BlobCorruptError):
        fuse(plan, folder, expected={weights.name: hashlib.sha256(data).hexdigest()})
    (folder.parent / "other").mkdir()
    weights.write_bytes(data[:-1000])
    with pytest.raises(BlobCorruptError):
        fuse(plan, folder.parent / "other")
    weights.unlink()
    with pytest.raises(MissingFileError):
        fuse(plan, folder.parent / "other")


class GiveUp(Exception):
    """Raised by the test to cancel."""


@pytest.mark.timing
@pytest.mark.parametrize("threads", [1, 2])
def test_it_can_be_cancelled(
    threads: int, base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.engine.engine._CHECK_SECONDS", 0.0)
    calls: list[str] = []

    def check() -> None:
        calls.append(threading.current_thread().name)
        # Of several threads, one looks; the others may have ended all steps before it gets its second turn.
        if len(calls) == (3 if threads == 1 else 1):
            raise GiveUp

    before = set(threading.enumerate())
    with pytest.raises(GiveUp):
        fuse(planned(base, adapter), folder, threads=threads, check=check)
    assert set(threading.enumerate()) <= before
    assert set(calls) == {threading.current_thread().name}


def test_progress_goes_up_to_the_size_of_the_weights(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.engine.engine._CHECK_SECONDS", 0.0)
    told: list[int] = []
    plan = planned(base, adapter)
    # Of several threads, one looks; the others may have ended all steps before it gets its turn.
    fuse(plan, folder, threads=1, progress=told.append)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == plan.size == sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def test_folders_that_cannot_be_written(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(base, adapter)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(OutOfSpaceError):
        fuse(plan, folder)
    assert list(folder.iterdir()) == [], "noticed before anything is written"
    monkeypatch.undo()

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OutOfSpaceError):
        fuse(plan, folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [f"{_UP}.lora_a", f"{_UP}.scales"])
def test_numbers_that_are_not_finite_are_refused(
    name: str, value: float, base: Path, adapter: Path, folder: Path, planned: Planner
) -> None:
    def spoil(tensors: dict[str, tiny_models.Raw]) -> None:
        dtype, numbers = tensors[name]
        numbers[3, 1] = encode(np.array([value], np.float32), FORMATS[dtype])[0]

    rewrite(adapter if "lora" in name else base, spoil)
    with pytest.raises(FusionUnsupportedError, match=_UP):
        fuse(planned(base, adapter), folder)


@pytest.mark.timing
def test_a_failure_in_another_thread_reaches_the_caller(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, write, failed = threading.current_thread(), os.pwrite, threading.Event()

    def only_in_helpers(descriptor: int, data: bytes, offset: int) -> int:
        if threading.current_thread() is not main:
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        assert not offset or failed.wait(120)  # after the header, one of the others has its turn first
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", only_in_helpers)
    with pytest.raises(StorageError):
        fuse(planned(base, adapter), folder, threads=4)


def test_nothing_is_overwritten(base: Path, adapter: Path, folder: Path, planned: Planner) -> None:
    (folder / "model.safetensors").write_text("mine")
    with pytest.raises(StorageError):
        fuse(planned(base, adapter), folder)
    assert (folder / "model.safetensors").read_text() == "mine"


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


@pytest.mark.parametrize("limited", [False, True], ids=["without", "in pieces"])
def test_a_fuse_is_the_same(
    limited: bool, tmp_path: Path, our_fuse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no copy_file_range, and where each call moves few bytes."""
    base = tiny_models.make_base(tmp_path / "base", bits=4)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    folder, expected = our_fuse(base, adapter)
    folder.rename(tmp_path / "before")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    assert not files.copy_range(0, 0, 0, 0, 0)
    if limited:
        read, write = os.preadv, os.pwrite
        monkeypatch.setattr(
            os, "preadv", lambda file, buffers, offset: read(file, [buffers[0][:1001]], offset)
        )
        monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:1003], offset))
    _, fused = our_fuse(base, adapter)
    assert fused.files == expected.files
