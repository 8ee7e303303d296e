"""What does not fit is refused before it begins, with the number of bytes that must be free; with so many it fits."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixture_types import Fusery
from mounts import leave_free, small_disk

SIZE = 64 << 20
BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, empty."""
    with small_disk(tmp_path / "disk", SIZE) as folder:
        yield folder


def stated(err: str) -> int:
    found = re.search(r"Error: ([\d,]+) bytes must be free in \S+, and ([\d,]+) are", err)
    assert found, err
    return int(found[1].replace(",", ""))


def require_true_need(
    fusery: Fusery, disk: Path, words: list[str], least: int, done: Callable[[], object]
) -> int:
    """Hold a command to what it says: refused with a number, refused a block below it, and good with just that."""
    leave_free(disk, 1 << 20)
    ran = fusery(*words)
    assert ran.code == 2
    need = stated(ran.err)
    assert least <= need <= least + (12 << 20)
    leave_free(disk, need - BLOCK)
    ran = fusery(*words)
    assert (ran.code, stated(ran.err)) == (2, need), ran.err
    assert not done()
    leave_free(disk, need)
    ran = fusery(*words)
    assert ran.code == 0, ran.err
    assert done()
    return need


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def big(fusery: Fusery, tmp_path: Path) -> Fusery:
    """A registry with a base of 8 MiB, and an adapter."""
    import tiny_models

    base = tiny_models.make_base(tmp_path / "base", hidden=256, intermediate=1024, layers=4, vocab=2048)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, seed=1)
    assert fusery("base", "add", base, "--name", "big", "-q").code == 0
    assert fusery("register", adapter, "--base", "big", "--task", "course_rec", "-q").code == 0
    return fusery


def test_fuse_into_a_cache_on_a_small_disk(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(disk / "cache"))
    weights = bytes_in(tmp_path / "base")
    need = require_true_need(
        big, disk, ["fuse", "course_rec@1", "-q"], weights, lambda: list(disk.glob("cache/fused/*"))
    )
    used = bytes_in(disk / "cache")
    assert need < used + (1 << 20), "the number is the true need, and not one to be on the safe side"


def test_fuse_to_be_published_counts_the_store_too(big: Fusery, disk: Path, tmp_path: Path) -> None:
    """Database, store and cache are on one file system: what goes to each is added up."""
    (disk / "home").mkdir()
    shutil.copytree(tmp_path / "home", disk / "home", dirs_exist_ok=True)
    words = ["--home", str(disk / "home"), "fuse", "course_rec@1", "--publish", "full", "-q"]
    weights = next((tmp_path / "base").glob("*.safetensors")).stat().st_size
    require_true_need(big, disk, words, 2 * weights, lambda: list(disk.glob("home/cache/fused/*")))


def test_fuse_publishes_to_a_store_on_another_disk(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(tmp_path / "home" / "store", disk / "store")
    monkeypatch.setenv("FUSERY_STORE_URL", str(disk / "store"))
    weights = next((tmp_path / "base").glob("*.safetensors")).stat().st_size
    words = ["fuse", "course_rec@1", "--publish", "full", "-q"]
    require_true_need(big, disk, words, weights, lambda: list(tmp_path.glob("home/cache/fused/*")))


def test_a_published_model_is_fetched_into_a_small_cache(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert big("fuse", "course_rec@1", "--publish", "full", "-q").code == 0
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(disk / "cache"))
    weights = next((tmp_path / "base").glob("*.safetensors")).stat().st_size
    words = ["fuse", "course_rec@1", "-q"]
    require_true_need(big, disk, words, weights, lambda: list(disk.glob("cache/fused/*")))


def test_a_base_is_added_to_a_small_store(big: Fusery, disk: Path, tmp_path: Path) -> None:
    words = ["--home", str(disk / "home"), "base", "add", str(tmp_path / "base"), "-q"]
    assert big("--home", disk / "home", "init").code == 0
    weights = next((tmp_path / "base").glob("*.safetensors")).stat().st_size
    require_true_need(
        big,
        disk,
        words,
        weights,
        lambda: [one for one in disk.rglob("*") if one.is_file() and one.stat().st_size == weights],
    )


def test_a_backup_on_a_small_disk_and_back(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = bytes_in(tmp_path / "home" / "store")
    words = ["backup", str(disk / "copy"), "-q"]
    require_true_need(big, disk, words, stored, lambda: made(big, disk, tmp_path))


def test_restore_on_a_small_disk(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehearsal's database is on the same disk, as it is where /tmp is a part of it."""
    assert big("backup", tmp_path / "copy", "-q").code == 0
    (disk / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    words = ["--home", str(disk / "home"), "restore", str(tmp_path / "copy"), "--own", "-q"]
    require_true_need(
        big, disk, words, bytes_in(tmp_path / "copy"), lambda: list(disk.glob("home/fusery.db"))
    )
    assert big("--home", disk / "home", "audit").code == 0


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_an_exchange_with_a_small_disk(big: Fusery, disk: Path, tmp_path: Path, verb: str) -> None:
    there = str(disk / "home")
    words = ["push", "course_rec@1", "--to", there, "-q"]
    if verb == "pull":
        words = ["--home", there, "pull", "course_rec@1", "--from", str(tmp_path / "home"), "-q"]
    assert big("--home", there, "init").code == 0
    weights = bytes_in(tmp_path / "home" / "store")
    require_true_need(
        big, disk, words, weights, lambda: big("--home", there, "show", "course_rec@1").code == 0
    )


def made(fusery: Fusery, disk: Path, tmp_path: Path) -> bool:
    """Tell whether there is a backup that can be restored."""
    words = ("--home", tmp_path / "other", "restore", disk / "copy", "--own", "-q")
    return bool(fusery(*words).code == 0)


@pytest.mark.parametrize("target", ["model", "docker", "gguf", "oci", "adapters"])
def test_a_bundle_on_a_small_disk(big: Fusery, disk: Path, tmp_path: Path, target: str) -> None:
    if target != "adapters":
        assert big("fuse", "course_rec@1", "-q").code == 0
    weights = next((tmp_path / "base").glob("*.safetensors")).stat().st_size
    words = ["materialize", "course_rec@1", str(disk / "bundle"), "--target", target, "-q"]
    require_true_need(big, disk, words, weights - (1 << 20), lambda: (disk / "bundle").exists())
