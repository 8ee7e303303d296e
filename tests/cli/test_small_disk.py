"""What does not fit is refused before it begins, with the number of bytes that must be free; with so many it fits."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from mounts import leave_free, small_disk

from fusery.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.timing]

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
    """Check the number of bytes that a command asks for: it fails with a block less, and succeeds with exactly so many."""
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


def weights_of(folder: Path) -> int:
    return next(folder.glob("*.safetensors")).stat().st_size


def glob(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


@pytest.fixture(scope="module")
def big_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a base of 8 MiB, and an adapter; to be copied."""
    folder = tmp_path_factory.mktemp("big")
    base = tiny_models.make_base(folder / "base", hidden=256, intermediate=1024, layers=4, vocab=2048)
    adapter = tiny_models.make_adapter(folder / "adapter", base, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSERY_REGISTRY", str(folder / "home"))
        assert run(["base", "add", str(base), "--name", "big", "-q"]) == 0
        assert run(["register", str(adapter), "--base", "big", "--task", "course_rec", "-q"]) == 0
    return folder


@pytest.fixture
def big(fusery: Fusery, big_home: Path, tmp_path: Path) -> Fusery:
    """The command line on a registry with a base of 8 MiB, and an adapter."""
    shutil.copytree(big_home, tmp_path, dirs_exist_ok=True)
    return fusery


def test_fuse_into_a_cache_on_a_small_disk(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(disk / "cache"))
    words = ["fuse", "course_rec@1", "-q"]
    fused = partial(glob, disk, "cache/fused/*")
    need = require_true_need(big, disk, words, bytes_in(tmp_path / "base"), fused)
    assert need < bytes_in(disk / "cache") + (1 << 20), "the number is the true need, and not a safe one"


def test_a_base_is_added_to_a_small_store(big: Fusery, disk: Path, tmp_path: Path) -> None:
    words = ["--registry", str(disk / "home"), "base", "add", str(tmp_path / "base"), "-q"]
    assert big("--registry", disk / "home", "admin", "init").code == 0
    weights = weights_of(tmp_path / "base")
    require_true_need(
        big, disk, words, weights, lambda: [one for one in disk.rglob("*") if one.stat().st_size == weights]
    )


def test_a_backup_on_a_small_disk_and_back(
    big: Fusery, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restored() -> bool:
        return bool(
            big("--registry", tmp_path / "other", "admin", "restore", disk / "copy", "--own", "-q").code == 0
        )

    need = bytes_in(tmp_path / "home" / "store")
    require_true_need(big, disk, ["admin", "backup", str(disk / "copy"), "-q"], need, restored)
    shutil.move(disk / "copy", tmp_path / "copy")
    # A restore first tries its rows in a database in the temporary folder: put that on the same disk.
    (disk / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    words = ["--registry", str(disk / "home"), "admin", "restore", str(tmp_path / "copy"), "--own", "-q"]
    require_true_need(big, disk, words, bytes_in(tmp_path / "copy"), partial(glob, disk, "home/fusery.db"))
    assert big("--registry", disk / "home", "audit").code == 0


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_an_exchange_with_a_small_disk(big: Fusery, disk: Path, tmp_path: Path, verb: str) -> None:
    there = str(disk / "home")
    words = ["push", "course_rec@1", "--to", there, "-q"]
    if verb == "pull":
        words = ["--registry", there, "pull", "course_rec@1", "--from", str(tmp_path / "home"), "-q"]
    assert big("--registry", there, "admin", "init").code == 0
    weights = bytes_in(tmp_path / "home" / "store")
    require_true_need(
        big, disk, words, weights, lambda: big("--registry", there, "show", "course_rec@1").code == 0
    )


@pytest.mark.parametrize("target", ["docker", "gguf", "adapters"])
def test_a_bundle_on_a_small_disk(big: Fusery, disk: Path, tmp_path: Path, target: str) -> None:
    if target != "adapters":
        assert big("fuse", "course_rec@1", "-q").code == 0
    words = ["materialize", "course_rec@1", str(disk / "bundle"), "--target", target, "-q"]
    least = weights_of(tmp_path / "base") - (1 << 20)
    require_true_need(big, disk, words, least, (disk / "bundle").exists)
