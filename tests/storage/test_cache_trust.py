"""What the cache believes: no file that whoever writes the cache can write, and no time that a mapped write leaves alone."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusery.storage.cache import FusedCache
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.vouchers import Vouchers

KEY = digest_bytes(b"one fused artifact")
FILES = {"config.json": b"{}", "model.safetensors": os.urandom(300_000)}
MANIFEST = Manifest.of(FileEntry(path, len(data), digest_bytes(data)) for path, data in FILES.items())
WEIGHTS = "model.safetensors"


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def cache(root: Path) -> FusedCache:
    return open_cache(root)


def open_cache(root: Path) -> FusedCache:
    return FusedCache(root / "cache", Vouchers(root / "private"))


def publish(cache: FusedCache, meddle: Callable[[Path], object] = lambda _: None) -> Path:
    with cache.build(KEY, 1) as folder:
        for path, data in FILES.items():
            (folder / path).write_bytes(data)
        meddle(folder)
        return cache.publish(KEY, folder, MANIFEST, hashed=True)


def flip(memory: mmap.mmap) -> None:
    memory[1000] ^= 1


def dirty(memory: mmap.mmap) -> None:
    """Write what is there already: the page is dirty from here on, and takes further writes unseen."""
    memory[1000] = memory[1000]


def is_served(cache: FusedCache) -> bool:
    return open_cache(cache.root.parent).lookup(KEY, MANIFEST) is not None


def test_a_page_that_was_dirty_when_it_was_published_is_not_served_once_it_changes(cache: FusedCache) -> None:
    held: list[mmap.mmap] = []

    def hold(folder: Path) -> None:
        file = (folder / WEIGHTS).open("r+b")
        held.append(mmap.mmap(file.fileno(), 0))
        file.close()
        dirty(held[0])

    path = publish(cache, hold)
    assert is_served(cache)
    flip(held[0])
    assert (path / WEIGHTS).read_bytes() != FILES[WEIGHTS]
    assert not is_served(cache)
    held[0].close()


def forge(folder: Path, entry: Path) -> None:
    for note in folder.rglob("*.json"):
        if note.is_relative_to(entry):
            continue
        document = json.loads(note.read_bytes())
        for name in document["files"]:
            found = (entry / name).stat()
            document["files"][name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        note.write_text(json.dumps(document))


def test_whoever_writes_the_cache_cannot_say_that_an_entry_was_hashed(cache: FusedCache) -> None:
    path = publish(cache)
    assert is_served(cache)
    (path / WEIGHTS).chmod(0o644)
    (path / WEIGHTS).write_bytes(FILES[WEIGHTS][::-1])
    forge(cache.root, path)
    assert not is_served(cache)
