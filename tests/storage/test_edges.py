"""Small duties at the edges: progress, names of owners, locks, and what a server that changes its mind is told."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusery.storage import publishing
from fusery.storage.cache import FusedCache
from fusery.storage.cache_space import owner_file
from fusery.storage.digest import digest_bytes, digest_file
from fusery.storage.errors import StoreUnavailableError
from fusery.storage.local import LocalStore
from fusery.storage.locate import Protocol, open_store, open_tree, protocol_of
from fusery.storage.manifest import FileEntry, Outgoing
from fusery.storage.plugins import Plugin, PluginError
from fusery.storage.processes import Scratch
from fusery.storage.remote import SMALL
from fusery.storage.safetensors import decoded
from fusery.storage.transfer import on_disk
from fusery.storage.verified_files import VerifiedFiles

DATA = b"0123456789"
ENTRY = FileEntry("a", len(DATA), digest_bytes(DATA))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(DATA)
    return path


def test_a_file_is_hashed_in_pieces_until_the_check_ends_it(file: Path) -> None:
    calls: list[int] = []
    assert digest_file(file, lambda: calls.append(1)) == (ENTRY.sha256, len(DATA))
    assert calls == [1]


def test_every_transfer_reports_its_bytes(file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(DATA * (SMALL // 10 + 1))
    entry = FileEntry("large", large.stat().st_size, digest_bytes(large.read_bytes()))
    memory, tree = (make(f"memory://{uuid.uuid4().hex}/x") for make in (open_store, open_tree))
    stores = [LocalStore(tmp_path / "store"), memory]
    for store in stores:
        steps: list[int] = []
        store.put_files([Outgoing(file, ENTRY), Outgoing(large, entry)], progress=steps.append)
        assert sum(steps) == ENTRY.size + entry.size
        store.verify(ENTRY.sha256, ENTRY.size, progress=steps.append)
        assert sum(steps) == 2 * ENTRY.size + entry.size
        assert {blob.digest for blob in store.blobs()} == {ENTRY.sha256, entry.sha256}
        store.put_files([Outgoing(file, ENTRY)])
    steps = []
    for path, one in ((file, ENTRY), (large, entry)):
        tree.put(path, one, progress=steps.append)
    assert sum(steps) == ENTRY.size + entry.size
    tree.fetch("a", len(DATA), tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == DATA
    with pytest.raises(StoreUnavailableError):
        tree.fetch("a", len(DATA) + 1, tmp_path / "longer")


def test_a_probe_that_finds_its_name_taken_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = open_store(f"memory://{uuid.uuid4().hex}")
    write, answers = store._objects.write, [False]
    monkeypatch.setattr(
        store._objects,
        "write",
        lambda *words, **how: write(*words, **how) and not (answers and not answers.pop()),
    )
    assert store.create_exclusive
    assert list(store.leftovers()) == []


def test_a_scratch_folder_lasts_as_long_as_its_holder() -> None:
    scratch = Scratch("form")
    path = scratch.path
    assert path.is_dir()
    del scratch
    gc.collect()
    assert not path.exists()


def test_a_part_file_has_one_holder(file: Path, tmp_path: Path) -> None:
    before = os.listdir("/dev/fd")
    fd = publishing.open_locked(file)
    assert fd is not None
    assert publishing.open_locked(file) is None
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        publishing.open_locked(tmp_path / "none")
    assert len(os.listdir("/dev/fd")) == len(before)


def test_numbers_of_bfloat16_are_exact() -> None:
    numbers = np.array([1.0, -2.5, 0.0, 3.0e38], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    exact = (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert decoded(halves, "BF16").tolist() == exact.tolist()
    assert decoded(numbers.tobytes(), "F32").tolist() == numbers.tolist()


def test_a_cache_knows_its_builds_and_forgets_on_request(tmp_path: Path) -> None:
    cache = FusedCache(tmp_path / "cache", VerifiedFiles(tmp_path / "private"))
    key = hashlib.sha256(b"key").hexdigest()
    assert cache.in_use_here() == 0
    with cache.build(key, 1) as folder:
        (folder / "f").write_bytes(bytes(10_000))
        assert cache.in_use_here() == on_disk(folder) + on_disk(owner_file(folder)) > 10_000
    notes = VerifiedFiles(tmp_path / "private")
    notes.record_all(key, ENTRY.sha256, {})
    assert notes.has_all(key, ENTRY.sha256, {})
    cache.doubt(key)
    cache.doubt(key)
    assert not notes.has_all(key, ENTRY.sha256, {})


def test_a_plugin_s_module_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("fusery.backends", "mine", "mine-package", "1", "mine:PROTOCOL")
    for maker, works in (("", True), ("json", True), ("no_such_module_here", False)):
        own = SimpleNamespace(PROTOCOL=Protocol("mine", "pip install mine", {}, maker=maker))
        monkeypatch.setitem(sys.modules, "mine", own)
        if works:
            assert protocol_of(plugin).plugin == plugin
        else:
            with pytest.raises(PluginError):
                protocol_of(plugin)
