"""Bytes that were altered after somebody had looked: not called cached, not shipped, not served, not computed with.

Where a test writes a voucher itself, it stands for whatever the vouchers' limits are: what leaves the machine does not
rely on them.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry, Reporter
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.serving import serve as serving
from fusery.registry.serving.serve import ServeRequest
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, StorageError
from fusery.storage.stamps import folder_state

WEIGHTS = "model.safetensors"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: nothing here is about the database."""
    return sqlite_url


@pytest.fixture(params=["disk", "memory"])
def cached(request: pytest.FixtureRequest, stocked: Registry) -> Iterator[Registry]:
    """A registry with its cache on the disk, and on tmpfs."""
    if request.param == "disk":
        yield stocked
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stocked.workspace.settings = replace(stocked.workspace.settings, cache_dir=Path(folder))
        yield stocked


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file for writing and dirty a page of it, as training in place does; the bytes are what they were."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        path.chmod(mode & 0o7777)
        memory[-1] = memory[-1]
        yield memory


def alter(path: Path) -> None:
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    path.chmod(mode & 0o7777)


def altered_and_vouched(registry: Registry) -> Path:
    """Return the file of a fused model that was altered, with a voucher that says it was hashed since."""
    fused = registry.fused.fuse("course_rec@1")
    path = fused.path / WEIGHTS
    alter(path)
    state = folder_state(fused.path)
    assert state is not None
    registry.workspace.vouchers.note_all(fused["key"], fused["digest"], state)
    assert registry.fused.fuse("course_rec@1").cached
    return path


def base_file(registry: Registry) -> Path:
    weights = next(file for file in registry.bases.show("tiny")["files"] if file["path"] == WEIGHTS)
    path = registry.workspace.store.local_path(Digest(weights["sha256"]))
    assert path is not None
    return path


def test_what_changes_through_a_mapping_between_two_fuses_is_not_called_cached(cached: Registry) -> None:
    first = cached.fused.fuse("course_rec@1")
    data = (first.path / WEIGHTS).read_bytes()
    with mapped(first.path / WEIGHTS) as memory:
        assert cached.fused.fuse("course_rec@1").cached
        memory[-1] ^= 1
        again = cached.fused.fuse("course_rec@1")
        assert not again.cached
        assert (again.path / WEIGHTS).read_bytes() == data


def test_nothing_that_lies_in_the_cache_is_believed(cached: Registry) -> None:
    """All that is in the cache folder is what it was when the model was right, but for the model."""
    cached.fused.fuse("course_rec@1")
    assert cached.fused.fuse("course_rec@1").cached
    notes = [path for path in cached.workspace.cache.root.rglob("*.json") if "fused" not in path.parts]
    assert notes == []


@pytest.mark.parametrize("target", ["model", "archive", "docker", "oci"])
@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_bundle_is_made_of_what_is_recorded_whatever_a_voucher_says(
    cached: Registry, target: str, tmp_path: Path
) -> None:
    altered_and_vouched(cached)
    with pytest.raises(BlobCorruptError, match=WEIGHTS) as caught:
        cached.bundles.materialize("course_rec@1", tmp_path / "out", target=target)
    assert caught.value.hint == "run the command again: what is damaged in the cache is made anew"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
    assert cached.adapters.show("course_rec@1")["bundles"] == []
    cached.bundles.materialize("course_rec@1", tmp_path / "out", target=target)
    assert cached.upkeep.audit().ok


@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_hard_link_is_made_to_what_is_recorded_only(cached: Registry, tmp_path: Path) -> None:
    from fusery.registry.bundles import Choices

    altered_and_vouched(cached)
    with pytest.raises(BlobCorruptError, match=WEIGHTS):
        cached.bundles.materialize("course_rec@1", tmp_path / "out", choices=Choices(link=True))
    assert not (tmp_path / "out").exists()


@contextmanager
def loading(registry: Registry, **request: Any) -> Iterator[ExitStack]:
    """Go as far as `serve` goes before it loads; closing what is yielded is what it does when all is in memory."""
    wanted = ServeRequest(["course_rec@1"], **request)
    with ExitStack() as reading, serving._folder(registry.workspace, wanted, reading, lambda _: None):
        yield reading


@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_fused_model_is_hashed_before_it_is_served(cached: Registry) -> None:
    altered_and_vouched(cached)
    with pytest.raises(BlobCorruptError, match=WEIGHTS) as caught, loading(cached, fused=True):
        pytest.fail("it is loaded")
    assert "run the command again" in str(caught.value.hint)
    with loading(cached, fused=True) as reading:
        reading.close()


def test_a_fused_model_that_changes_while_it_is_loaded_is_not_served(cached: Registry) -> None:
    path = cached.fused.fuse("course_rec@1").path / WEIGHTS
    with (
        mapped(path) as memory,
        pytest.raises(StorageError, match=f"{WEIGHTS} (changed|is damaged)"),
        loading(cached, fused=True) as reading,
    ):
        memory[-1] ^= 1
        reading.close()


@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_base_is_hashed_before_it_is_served(cached: Registry) -> None:
    with loading(cached) as reading:
        reading.close()
    alter(base_file(cached))
    with pytest.raises(BlobCorruptError, match=WEIGHTS), loading(cached):
        pytest.fail("it is loaded")


@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_base_that_changes_while_it_is_loaded_is_not_served(cached: Registry) -> None:
    with (
        mapped(base_file(cached)) as memory,
        pytest.raises(StorageError, match="changed while it was read"),
        loading(cached) as reading,
    ):
        memory[-1] ^= 1
        reading.close()


@pytest.mark.parametrize("cached", ["disk"], indirect=True)
@pytest.mark.parametrize("before", ["hashed today", "never hashed"])
def test_a_base_that_changes_while_it_is_fused_gives_no_model(cached: Registry, before: str) -> None:
    if before == "hashed today":
        cached.fused.fuse("course_rec@2")
    with mapped(base_file(cached)) as memory:
        if before == "hashed today":
            cached.fused.fuse(
                "course_rec@2", FuseRequest(scale=3.0)
            )  # the mode was changed: it is hashed once more
        changed: list[int] = []

        def meddle(done: int, whole: int) -> None:
            if done == whole and not changed:
                memory[-1] ^= 1
                changed.append(done)

        with pytest.raises(StorageError, match="changed while it was read"):
            cached.fused.fuse("course_rec@1", reporter=Reporter(progress=meddle))
        assert changed
    assert cached.adapters.show("course_rec@1")["fused"] == []


@pytest.mark.parametrize(
    "use",
    [
        lambda registry: registry.bases.calibrate("tiny"),
        lambda registry: registry.adapters.probe("tiny", against="course_rec@1"),
    ],
    ids=["calibrate", "probe"],
)
@pytest.mark.parametrize("cached", ["disk"], indirect=True)
def test_a_base_is_what_is_recorded_before_anything_is_measured_on_it(
    cached: Registry, use: Callable[[Registry], Any]
) -> None:
    pytest.importorskip("mlx_lm")
    cached.fused.fuse("course_rec@1")
    alter(base_file(cached))
    with pytest.raises(BlobCorruptError, match=WEIGHTS):
        use(cached)


def test_doctor_says_when_others_may_write_the_cache(stocked: Registry) -> None:
    stocked.fused.fuse("course_rec@1")
    root = stocked.workspace.cache.root

    def told() -> str:
        return next(check.detail for check in stocked.upkeep.doctor() if check.name == "cache")

    root.chmod(0o755)
    assert "other users" not in told()
    root.chmod(0o775)
    assert "writable by other users" in told()


def test_the_settings_say_which_folder_is_private(stocked: Registry, tmp_path: Path) -> None:
    stocked.fused.fuse("course_rec@1")
    private = stocked.workspace.settings.private
    assert private == tmp_path / "home" / f"private-{os.geteuid()}"
    assert (private / "vouchers").stat().st_mode & 0o777 == 0o700
