"""Bytes that were altered after they had been verified are not reported as cached, shipped, served or computed with.

Tests that write a note of a verified file themselves show that what leaves the machine does not rely on it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.model_server.local import serve as serving
from fusery.model_server.local.serve import ServeRequest
from fusery.registry import Registry, Reporter
from fusery.registry.bundles import Choices
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, StorageError
from fusery.storage.verified_files import folder_state

WEIGHTS = "model.safetensors"


@pytest.fixture(params=["/tmp", "/dev/shm"])
def cached(request: pytest.FixtureRequest, stocked: Registry) -> Iterator[Registry]:
    """A registry with its cache on the disk, and on tmpfs."""
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"there is no {request.param} here")
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        stocked.workspace.settings = replace(stocked.workspace.settings, cache_dir=Path(folder))
        yield stocked


@contextmanager
def opened(path: Path) -> Iterator[Callable[[], object]]:
    """Open a file for writing; yield what flips its last bit."""
    mode, data = path.stat().st_mode, path.read_bytes()
    path.chmod(0o644)
    with path.open("r+b", buffering=0) as file:
        path.chmod(mode & 0o7777)
        yield lambda: os.pwrite(file.fileno(), bytes([data[-1] ^ 1]), len(data) - 1)


def alter(path: Path) -> None:
    mode, data = path.stat().st_mode, bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(mode & 0o7777)


def altered_and_noted(registry: Registry) -> Path:
    """Return the altered file of a fused model, with a note that it was hashed since."""
    fused = registry.fused.fuse("course_rec@1")
    path = fused.path / WEIGHTS
    alter(path)
    state = folder_state(fused.path)
    assert state is not None
    registry.workspace.verified_files.record_all(fused["key"], fused["digest"], state)
    assert registry.fused.fuse("course_rec@1").cached
    return path


def base_file(registry: Registry) -> Path:
    weights = next(file for file in registry.bases.show("tiny")["files"] if file["path"] == WEIGHTS)
    path = registry.workspace.store.local_path(Digest(weights["sha256"]))
    assert path is not None
    return path


@pytest.mark.parametrize(
    ("target", "choices"),
    [("model", {"link": True}), ("model", {}), ("archive", {}), ("oci", {})],
)
def test_a_bundle_is_made_of_the_recorded_bytes_despite_a_note(
    stocked: Registry, target: str, choices: dict[str, bool], tmp_path: Path
) -> None:
    altered_and_noted(stocked)
    with pytest.raises(BlobCorruptError):
        stocked.bundles.materialize(
            "course_rec@1", tmp_path / "out", target=target, choices=Choices(**choices)
        )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
    assert stocked.adapters.show("course_rec@1")["bundles"] == []
    stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target)
    assert stocked.upkeep.audit().ok


@contextmanager
def loading(registry: Registry, **request: Any) -> Iterator[ExitStack]:
    """Go as far as `serve` goes before it loads; closing what is yielded is what it does when all is in memory."""
    wanted = ServeRequest(references=["course_rec@1"], **request)
    with ExitStack() as reading, serving._folder(registry.workspace, wanted, reading, lambda _: None):
        yield reading


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_hashed_before_they_are_served(stocked: Registry, fused: bool) -> None:
    if fused:
        altered_and_noted(stocked)
    else:
        with loading(stocked) as reading:
            reading.close()
        alter(base_file(stocked))
    with pytest.raises(BlobCorruptError), loading(stocked, fused=fused):
        pytest.fail("it is loaded")
    if fused:
        with loading(stocked, fused=True) as reading:
            reading.close()


@pytest.mark.parametrize("fused", [True, False])
def test_weights_that_change_while_they_are_loaded_are_not_served(cached: Registry, fused: bool) -> None:
    path = cached.fused.fuse("course_rec@1").path / WEIGHTS if fused else base_file(cached)
    with opened(path) as flip, pytest.raises(StorageError), loading(cached, fused=fused) as reading:
        flip()
        reading.close()


@pytest.mark.parametrize("hashed", [True, False])
def test_a_base_that_changes_while_it_is_fused_gives_no_model(stocked: Registry, hashed: bool) -> None:
    if hashed:
        stocked.fused.fuse("course_rec@2")
    with opened(base_file(stocked)) as flip:
        if hashed:  # the mode was changed: it is hashed once more
            stocked.fused.fuse("course_rec@2", FuseRequest(scale=3.0))
        changed: list[int] = []

        def meddle(done: int, whole: int) -> None:
            if done == whole and not changed:
                flip()
                changed.append(done)

        with pytest.raises(StorageError):
            stocked.fused.fuse("course_rec@1", reporter=Reporter(progress=meddle))
        assert changed
    assert stocked.adapters.show("course_rec@1")["fused"] == []


def test_a_base_is_verified_before_anything_is_measured_on_it(stocked: Registry) -> None:
    alter(base_file(stocked))
    with pytest.raises(BlobCorruptError):
        stocked.bases.calibrate("tiny")
    with pytest.raises(BlobCorruptError):
        stocked.evaluations.probe("tiny", against="course_rec@1")


def test_doctor_reports_a_cache_that_others_may_write(stocked: Registry) -> None:
    stocked.fused.fuse("course_rec@1")
    private = stocked.workspace.settings.private
    assert (private / "verified").stat().st_mode & 0o777 == 0o700
    root = stocked.workspace.cache.root
    for mode, writable in ((0o755, False), (0o775, True)):
        root.chmod(mode)
        detail = next(check.detail for check in stocked.upkeep.doctor() if check.name == "cache")
        assert ("other users" in detail) is writable
