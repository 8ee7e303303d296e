"""What stays in the cache: entries that are pinned, and entries that somebody reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusery.storage.cache import FusedCache
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.verified_files import VerifiedFiles

pytestmark = pytest.mark.timing

KEY, OTHER = digest_bytes(b"one"), digest_bytes(b"other")
DATA = bytes(1000)
MANIFEST = Manifest.of([FileEntry("f", len(DATA), digest_bytes(DATA))])

READER = """
import sys
from pathlib import Path
from fusery.storage.cache import FusedCache
from fusery.storage.verified_files import VerifiedFiles
with FusedCache(Path(sys.argv[1]), VerifiedFiles(Path("none"))).using(sys.argv[2]) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path) -> FusedCache:
    made = FusedCache(tmp_path / "cache", VerifiedFiles(tmp_path / "private"))
    for key in (KEY, OTHER):
        publish(made, key)
    return made


def publish(cache: FusedCache, key: Digest) -> None:
    with cache.build(key, 1) as folder:
        (folder / "f").write_bytes(DATA)
        cache.publish(key, folder, MANIFEST)


def test_what_is_being_read_is_neither_removed_nor_evicted(cache: FusedCache) -> None:
    plan = cache.evict(0)
    with cache.using(KEY) as path, cache.using(KEY) as second:
        assert path == second == cache.entry(KEY)
        assert cache.is_in_use(KEY)
        assert cache.remove(KEY) == 0
        assert [entry.key for entry in plan.execute()] == [OTHER]
        assert (path / "f").read_bytes() == DATA
        assert [entry.key for entry in cache.evict(0).keep] == [KEY]
    assert not cache.is_in_use(KEY)
    assert sum(entry.size for entry in cache.evict(0).execute()) == len(DATA)
    assert cache.entries() == []


def test_what_is_not_here_cannot_be_held(cache: FusedCache) -> None:
    cache.remove(KEY)
    with cache.using(KEY) as path:
        assert path is None
        publish(cache, KEY)
        assert cache.remove(KEY) == len(DATA)


def test_another_process_holds_and_gives_back_when_it_is_killed(cache: FusedCache) -> None:
    words = [sys.executable, "-P", "-c", READER, str(cache.root), KEY]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == str(cache.entry(KEY))
        assert cache.remove(KEY) == 0
        reader.kill()
        reader.wait()
    assert cache.remove(KEY) == len(DATA)


def test_a_hold_on_what_was_replaced_meanwhile_is_not_a_hold_on_what_came_after(cache: FusedCache) -> None:
    with cache.using(KEY):
        assert cache.quarantine(KEY) is not None
        publish(cache, KEY)
        assert cache.remove(KEY) == len(DATA)


def test_a_pin_keeps_an_entry(cache: FusedCache) -> None:
    assert cache.pin(KEY)
    assert not cache.pin(KEY)
    assert cache.pinned() == {KEY}
    plan = cache.evict(0)
    assert [entry.key for entry in plan.remove] == [OTHER]
    assert cache.unpin(KEY)
    assert not cache.unpin(KEY)
    assert cache.evict(0).keep == ()


def test_a_note_says_whether_a_lookup_would_hash(cache: FusedCache) -> None:
    assert cache.is_verified(KEY, MANIFEST)
    (cache.entry(KEY) / "f").chmod(0o644)
    assert not cache.is_verified(KEY, MANIFEST)
    cache.remove(KEY)
    assert not cache.is_verified(KEY, MANIFEST)


def test_what_is_published_or_looked_up_in_a_block_is_held_until_its_end(cache: FusedCache) -> None:
    third = digest_bytes(b"third")
    with cache.holding():
        assert cache.lookup(KEY, MANIFEST) is not None
        assert cache.lookup(digest_bytes(b"none"), MANIFEST) is None
        publish(cache, third)
        assert [entry.key for entry in cache.evict(0).execute()] == [OTHER]
    assert {entry.key for entry in cache.evict(0).execute()} == {KEY, third}
